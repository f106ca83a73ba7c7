"""Requests to a chat endpoint, and its replies."""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from povid_jax import files
from povid_jax.llm.failures import Failure
from povid_jax.llm.prices import Price, load_price, message_tokens
from povid_jax.llm.thoughts import strip_thoughts

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
    plain: never ask for a JSON schema.
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
  plain: bool = False

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
    any_reply: whatever comes back is a reply, also one that was cut off or is
      empty: for sampling, where the model's end is not waited for.
  """

  key: str
  messages: Messages
  schema: Mapping[str, Any] | None = None
  plain: Messages | None = None
  image_tokens: int = 0
  max_tokens: int | None = None
  context: Any = None
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  any_reply: bool = False

  @functools.cached_property
  def tokens(self) -> int:
    """About how many prompt tokens it is, pictures included."""
    return message_tokens(self.messages) + self.image_tokens


# Reasons for the end of a reply, as servers name them: for a whole one, for one
# that was cut off, one that a filter took away. Any other is no whole reply.
_WHOLE = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "completed")
_CUT = ("length", "max_tokens", "max_output_tokens", "model_length")
_FILTERED = ("content_filter", "safety", "recitation", "prohibited_content",
             "blocklist")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reply:
  """A reply and its cost.

  Attributes:
    text: the content without thoughts, "" for a refusal.
    parsed: the JSON value in it if a schema was asked for, else None.
    refusal: the model's own words for declining, or None.
    finish: "stop", "length", "content_filter", ... as the server says it.
    structured: whether the schema was enforced by the server.
    cost: dollars, 0 for a model without a known price.
    thoughts: where text was found that is not the answer, "" for nowhere.
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
  thoughts: str = ""

  @property
  def usage(self) -> dict[str, int]:
    return {"prompt": self.prompt_tokens, "completion": self.completion_tokens}

  @property
  def whole(self) -> bool:
    """Whether the model came to its end by itself."""
    return self.finish.lower() in _WHOLE

  @property
  def declined(self) -> str:
    """The words of a refusal, by the model or a filter; "" for none."""
    if self.refusal:
      return self.refusal
    return self.finish if self.finish.lower() in _FILTERED else ""

  @property
  def defect(self) -> str:
    """Why the reply has no complete answer; "" if it has one."""
    if self.declined:
      return f"declined: {self.declined[:200]}"
    if self.finish.lower() in _CUT:
      where = f", {self.thoughts}" if self.thoughts else ""
      return (
        f"the reply was cut off at max_tokens (finish {self.finish}{where})"
      )
    if not self.whole:
      return (
        f"finish_reason {self.finish!r} means that the reply is not complete"
      )
    if not self.text.strip():
      where = self.thoughts or "and no other field contains text"
      return f"the content is empty: {where}"
    return ""


def limit_name(options: Options) -> str:
  """OpenAI's newer models refuse the old name, other servers know no new one
  (and say so, see `other_limit_name`)."""
  return "max_completion_tokens" if options.base_url is None else "max_tokens"


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
    Failure: "bad_reply": it is not in the form of one. (An error body is no
      business of ours: see `failures.error_words`.)
  """
  try:
    choice = data["choices"][0]
    message = choice["message"]
    said = _text(message.get("content"))
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
  prompt, completion = _usage(data, request.tokens, len(said) // 4)
  text = strip_thoughts(said)
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
    thoughts="" if text.strip() else _elsewhere(said, message),
  )


def _elsewhere(said: str, message: Mapping[str, Any]) -> str:
  """Where the text of a reply is whose content is empty."""
  if said.strip():
    return f"all of its {len(said):,} characters are thoughts"
  for name in ("reasoning_content", "reasoning", "thinking"):
    value = message.get(name)
    if isinstance(value, str) and value.strip():
      return (
        f"{len(value):,} characters are in {name} (a reasoning parser of the "
        "server puts the answer there, or the thoughts took all the room)"
      )
  if message.get("tool_calls"):
    return "the text is in tool_calls"
  return ""


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
  with contextlib.suppress(ValueError):
    return files.parse_json(text)
  found = re.search(r"\{.*\}", text, re.S)
  if found:
    with contextlib.suppress(ValueError):
      return files.parse_json(found.group())
  return None
