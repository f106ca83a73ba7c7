"""What goes to a chat endpoint and what comes back."""

import contextlib
import dataclasses
import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from povid_jax.errors import UserError
from povid_jax.llm.prices import Price, load_price, message_tokens

Messages = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Options:
  """A server and how to talk to it.

  Attributes:
    model: its name on the server.
    base_url: None: OpenAI's own.
    key_env: environment variable with the key; may be unset for a server on
      this machine.
    concurrency: requests in flight.
    rpm, tpm: requests and tokens a minute; None: no limit of our own.
    timeout: seconds for one request, all in all.
    retries: new attempts after the first for what may pass (429, 5xx, time
      outs, broken connections, unreadable replies).
    backoff: seconds before the first new attempt; doubled for each further.
    temperature: None: the server's default (some models allow no other).
    max_tokens: bound on a reply.
    prices: price table, None: prices.json of this package.
  """

  model: str
  base_url: str | None = None
  key_env: str = "OPENAI_API_KEY"
  concurrency: int = 16
  rpm: float | None = None
  tpm: float | None = None
  timeout: float = 120.0
  retries: int = 8
  backoff: float = 0.5
  temperature: float | None = None
  max_tokens: int = 1024
  prices: str | None = None

  @property
  def price(self) -> Price:
    return load_price(self.model, self.prices)


@dataclasses.dataclass(frozen=True)
class Request:
  """One question.

  Attributes:
    key: names it in the log and in what comes back.
    messages: [{role, content}].
    schema: JSON schema of the wanted reply, or None for plain text.
    plain: messages for servers without structured output.
    image_tokens: what its pictures count, for limits and estimates.
    context: anything of the caller's.
    extra: further fields of the body (seed, top_p, ...).
  """

  key: str
  messages: Messages
  schema: Mapping[str, Any] | None = None
  plain: Messages | None = None
  image_tokens: int = 0
  max_tokens: int | None = None
  context: Any = None
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def tokens(self) -> int:
    """About how many prompt tokens it is, pictures included."""
    return message_tokens(self.messages) + self.image_tokens


@dataclasses.dataclass(frozen=True)
class Reply:
  """What came back and what it cost.

  Attributes:
    text: the content, "" for a refusal.
    parsed: the JSON value in it if a schema was asked for, else None.
    refusal: the model's own words for declining, or None.
    finish: "stop", "length", "content_filter", ...
    structured: whether the schema was enforced by the server.
    cost: dollars, 0 for a model without a known price.
  """

  key: str
  text: str
  parsed: Any
  refusal: str | None
  finish: str
  structured: bool
  prompt_tokens: int
  completion_tokens: int
  cost: float

  @property
  def usage(self) -> dict[str, int]:
    return {"prompt": self.prompt_tokens, "completion": self.completion_tokens}


@dataclasses.dataclass(eq=False)
class Failure(Exception):
  """A request without a usable reply.

  Attributes:
    kind: "429", "500", "timeout", "connection", "auth", "bad_json",
      "bad_request", ...
    detail: for people; never holds the key.
    final: asking again cannot help.
    wait: seconds the server wants us to wait, or None.
    usage, cost: tokens and dollars of a reply that came, was paid for, and is
      of no use; estimated where it does not say.
  """

  kind: str
  detail: str = ""
  final: bool = False
  wait: float | None = None
  status: int = 0
  usage: Mapping[str, int] = dataclasses.field(default_factory=dict)
  cost: float = 0.0

  @property
  def facts(self) -> dict[str, Any]:
    """For the record: why, and what it cost if it did."""
    paid = {"usage": dict(self.usage), "cost": self.cost} if self.usage else {}
    return {"reason": self.kind, **paid}


def api_key(options: Options) -> str:
  """The key from the environment.

  Raises:
    UserError: it is not set, and the server is OpenAI's own.
  """
  key = os.environ.get(options.key_env, "")
  if key:
    return key
  if options.base_url is None:
    raise UserError(
      f"no key: set the environment variable {options.key_env} "
      "(it is read from there only)"
    )
  return "none"  # servers on one's own machine ask for no key


def hidden(text: str, options: Options) -> str:
  """The text of a server without the key, which some of them repeat."""
  key = os.environ.get(options.key_env, "")
  return text.replace(key, "[key]") if key else text


def limit_name(options: Options) -> str:
  """OpenAI's newer models refuse the old name, other servers know no new one
  (and say so, see `other_limit_name`)."""
  return "max_completion_tokens" if options.base_url is None else "max_tokens"


def other_limit_name(name: str, detail: str) -> str | None:
  """The name to go on with, where `detail` refuses the one that was sent."""
  names = {"max_tokens", "max_completion_tokens"}
  found = set(re.findall(r"\bmax_(?:completion_)?tokens\b", detail))
  asked_for = "max_completion_tokens" in found or re.search(
    r"unsupported|unknown|unrecognized|not permitted|extra", detail, re.I
  )
  if name not in found or not asked_for:
    return None
  return (names - {name}).pop()


def body(
  request: Request,
  options: Options,
  structured: bool,
  limit: str | None = None,
) -> dict:
  """The JSON body of the chat endpoint for a request.

  Args:
    limit: what the server calls the bound on a reply; None: `limit_name`.
  """
  messages = request.messages
  if not structured and request.plain is not None:
    messages = request.plain
  result = {
    "model": options.model,
    "messages": messages,
    limit or limit_name(options): request.max_tokens or options.max_tokens,
  }
  if options.temperature is not None:
    result["temperature"] = options.temperature
  result |= request.extra
  if request.schema is not None and structured:
    result["response_format"] = {
      "type": "json_schema",
      "json_schema": {
        "name": "reply",
        "strict": True,
        "schema": request.schema,
      },
    }
  return result


def read_reply(
  request: Request,
  data: Any,
  structured: bool,
  price: Price,
  batch: bool = False,
) -> Reply:
  """A reply from the decoded body of a chat completion.

  Raises:
    Failure: "bad_reply": it is not in the form of one.
  """
  try:
    choice = data["choices"][0]
    message = choice["message"]
    text = _text(message.get("content"))
    refusal = message.get("refusal") or None
    finish = str(choice.get("finish_reason") or "stop")
  except (KeyError, IndexError, TypeError, AttributeError) as error:
    prompt, completion = _usage(data, request.tokens, 0)
    raise Failure(
      "bad_reply",
      f"not a chat completion: {error!r}",
      usage={"prompt": prompt, "completion": completion},
      cost=price.cost(prompt, completion, batch),
    ) from error
  prompt, completion = _usage(data, request.tokens, len(text) // 4)
  return Reply(
    key=request.key,
    text=text,
    parsed=_parse(text) if request.schema is not None else None,
    refusal=str(refusal) if refusal else None,
    finish=finish,
    structured=structured,
    prompt_tokens=prompt,
    completion_tokens=completion,
    cost=price.cost(prompt, completion, batch),
  )


def _text(content: Any) -> str:
  """The content of a message: a string, nothing, or a list of parts."""
  if isinstance(content, list):
    parts = [p for p in content if p.get("type", "text") == "text"]
    content = "".join(part["text"] for part in parts)
  if not isinstance(content, str | None):
    raise TypeError("content is not text")
  return content or ""


def _usage(data: Any, prompt: int, completion: int) -> tuple[int, int]:
  """(prompt, completion) tokens as the server counted them; the estimates
  where it did not, or not in numbers."""
  usage = data.get("usage") if isinstance(data, Mapping) else None
  if not isinstance(usage, Mapping):
    return prompt, completion

  def count(name: str, estimate: int) -> int:
    value = usage.get(name)
    return value if type(value) is int and value >= 0 else estimate

  return count("prompt_tokens", prompt), count("completion_tokens", completion)


def _parse(text: str) -> Any:
  """The JSON value of a text, also where a fence or a preface surrounds it."""
  with contextlib.suppress(ValueError, RecursionError):
    return json.loads(text)
  found = re.search(r"\{.*\}", text, re.S)
  if found:
    with contextlib.suppress(ValueError, RecursionError):
      return json.loads(found.group())
  return None
