"""Many chat completions at once: retries, limits, and a stop for bad keys."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from povid_jax.errors import UserError
from povid_jax.llm.limits import Breaker, Limits, backoff, retry_after
from povid_jax.llm.wire import (
  Failure,
  Options,
  Reply,
  Request,
  api_key,
  body,
  hidden,
  limit_name,
  other_limit_name,
  read_reply,
)

# (event, request, facts): "sent" before every attempt, "failed" after one
# without a usable reply. Whatever the caller writes down here is on disk
# before the money is spent.
Watch = Callable[[str, Request, dict[str, Any]], None]
Outcome = Reply | Failure

_UNSTRUCTURED = ("response_format", "json_schema", "structured output")
# With these a server may also mean the schema and say something else.
_MAYBE_UNSTRUCTURED = (400, 422, 501)


def _unwatched(event: str, request: Request, facts: dict[str, Any]) -> None:
  del event, request, facts


class Chat:
  """A connection to one server; use as an asynchronous context manager.

  Attributes:
    reserved: dollars that the requests in flight will cost at most.
    structured: False once the server has refused response_format.
  """

  def __init__(self, options: Options, watch: Watch = _unwatched):
    self.options = options
    self.price = options.price
    self.reserved = 0.0
    self.structured = True
    self._proven = False  # a reply has come in the form of its schema
    self._limit = limit_name(options)
    self._watch = watch
    self._limits = Limits(options.rpm, options.tpm)
    self._breaker = Breaker(options.key_env)

  async def __aenter__(self) -> "Chat":
    try:
      import openai
    except ImportError as error:
      raise UserError(
        "this needs the openai package: pip install 'povid_jax[data]'"
      ) from error
    self._openai = openai
    # The pool of a client looks at all its connections for every request, so
    # each request in flight has a client, and its connection, to itself. What
    # is dear to make, the certificates, is shared.
    certificates = _certificates(openai.DefaultAsyncHttpxClient)
    self._idle = [
      openai.AsyncOpenAI(
        api_key=api_key(self.options),
        base_url=self.options.base_url,
        timeout=self.options.timeout,
        max_retries=0,  # ours are counted, written down and limited
        http_client=openai.DefaultAsyncHttpxClient(verify=certificates),
      )
      for _ in range(max(1, self.options.concurrency))
    ]
    self._open = list(self._idle)
    return self

  async def __aexit__(self, *exc: object) -> None:
    for client in self._open:
      await client.close()

  async def run(
    self,
    things: Iterator[Any],
    make: Callable[[Any], Request | None],
    handle: Callable[[Request, Outcome], Request | None],
    stop: Callable[[], bool] = lambda: False,
  ) -> None:
    """Asks about everything, `options.concurrency` requests at a time.

    Args:
      things: what is to be asked about, taken as there is room.
      make: the request for one of them, or None to leave it out; called in
        threads, several at a time, as pictures take a while.
      handle: gets each outcome; what it returns is asked next.
      stop: no new request is taken once this is true.

    Raises:
      UserError: the key is refused, the model does not exist, the quota is
        used up; or what `make` and `handle` raise.
    """
    workers = [
      asyncio.create_task(self._work(things, make, handle, stop))
      for _ in range(max(1, self.options.concurrency))
    ]
    try:
      await asyncio.gather(*workers)
    finally:
      for worker in workers:
        worker.cancel()
      await asyncio.gather(*workers, return_exceptions=True)

  async def _work(
    self,
    things: Iterator[Any],
    make: Callable[[Any], Request | None],
    handle: Callable[[Request, Outcome], Request | None],
    stop: Callable[[], bool],
  ) -> None:
    for thing in things:  # all workers draw from it
      if stop():
        return
      request = await asyncio.to_thread(make, thing)
      while request is not None and not stop():
        request = handle(request, await self.ask(request))

  async def ask(self, request: Request) -> Outcome:
    """One request with its retries.

    Raises:
      UserError: see `run`.
    """
    most = self.price.cost(
      request.tokens, request.max_tokens or self.options.max_tokens
    )
    self.reserved += most
    try:
      return await self._persist(request)
    finally:
      self.reserved -= most

  async def _persist(self, request: Request) -> Outcome:
    attempt = 0
    plain = False  # whether this request is tried without its schema
    while True:
      structured = not plain and self.structured and request.schema is not None
      limit = self._limit
      try:
        reply = await self._attempt(request, structured, limit)
      except Failure as failure:
        self._watch("failed", request, failure.facts)
        if failure.kind == "auth":
          self._breaker.refused(failure.status)
        if failure.final and self._rename_limit(limit, failure.detail):
          continue
        if structured and self._about_schema(failure):
          plain = True
          continue
        attempt += 1
        if failure.final or attempt > self.options.retries:
          return failure
        await self._wait(failure, attempt)
      else:
        self._breaker.success()
        self._proven |= structured
        if plain:  # it was the schema: plain text from now on
          self.structured = False
        return reply

  def _rename_limit(self, sent: str, detail: str) -> bool:
    """Whether to ask again under the other name of the bound on a reply."""
    other = other_limit_name(sent, detail)
    if other is None or sent != limit_name(self.options):
      return False
    self._limit = other
    return True

  def _about_schema(self, failure: Failure) -> bool:
    """Whether the server may take the same request without its schema: it
    says so, or has refused every schema so far."""
    if failure.status not in _MAYBE_UNSTRUCTURED:
      return False
    detail = failure.detail.lower()
    return not self._proven or any(word in detail for word in _UNSTRUCTURED)

  async def _wait(self, failure: Failure, attempt: int) -> None:
    wait = backoff(attempt, self.options.backoff)
    if failure.wait is not None:
      if failure.kind == "429":  # the account's limit: it holds for all
        self._limits.pause(failure.wait)
      wait = max(failure.wait, wait * 0.1)
    await asyncio.sleep(wait)

  async def _attempt(
    self, request: Request, structured: bool, limit: str
  ) -> Reply:
    tokens = request.tokens + (request.max_tokens or self.options.max_tokens)
    await self._limits.enter(tokens)
    self._watch("sent", request, {})
    content = body(request, self.options, structured, limit)
    data = self._decode(request, await self._post(content))
    reply = read_reply(request, data, structured, self.price)
    self._limits.used(tokens, reply.prompt_tokens + reply.completion_tokens)
    return reply

  def _decode(self, request: Request, raw: bytes) -> Any:
    """The reply as JSON; one that is torn has been paid for all the same."""
    try:
      return json.loads(raw)
    except (ValueError, RecursionError) as error:
      prompt = request.tokens
      most = request.max_tokens or self.options.max_tokens
      completion = min(len(raw) // 4, most)
      raise Failure(
        "bad_json",
        str(error),
        usage={"prompt": prompt, "completion": completion},
        cost=self.price.cost(prompt, completion),
      ) from error

  async def _post(self, content: dict[str, Any]) -> bytes:
    openai = self._openai
    client = self._idle.pop()
    try:
      async with asyncio.timeout(self.options.timeout):
        # `chat.completions.create` spends 4 ms on looking for files to upload
        # in every message, and checks a reply that we check ourselves.
        return await client.post(
          "/chat/completions", cast_to=bytes, body=content
        )
    except (TimeoutError, openai.APITimeoutError) as error:
      raise Failure("timeout", str(error)) from error
    except openai.APIStatusError as error:
      raise status_failure(error, self.options) from error
    except openai.APIConnectionError as error:
      raise Failure("connection", str(error.__cause__ or error)) from error
    finally:
      self._idle.append(client)


def _certificates(client: type) -> Any:
  """What the HTTP library under the client would make for each of them."""
  library = client.__mro__[1].__module__.partition(".")[0]
  return sys.modules[library].create_ssl_context()


def status_failure(error: Any, options: Options) -> Failure:
  """The failure for an error status; UserError where nothing can go on."""
  status = error.status_code
  detail = hidden(str(error), options)[:500]
  if status in (401, 403):
    return Failure("auth", detail, status=status)
  if status == 404:
    raise UserError(f"the server knows no such model or path: {detail}")
  if status == 402:
    raise UserError(f"the account has no credit left: {detail}")
  if status == 429:
    if error.code == "insufficient_quota" or "insufficient_quota" in detail:
      raise UserError(f"the account's quota is used up: {detail}")
    return Failure(
      "429", detail, wait=retry_after(error.response.headers), status=status
    )
  if (status >= 500 and status != 501) or status in (408, 409, 425):
    wait = retry_after(error.response.headers)
    return Failure(str(status), detail, wait=wait, status=status)
  return Failure("bad_request", detail, final=True, status=status)
