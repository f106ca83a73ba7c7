"""Many chat completions at once: retries, limits, and a stop for bad keys."""

import asyncio
import itertools
import json
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
  read_reply,
)

# (event, request, facts): "sent" before every attempt, "failed" after one
# without a usable reply. Whatever the caller writes down here is on disk
# before the money is spent.
Watch = Callable[[str, Request, dict[str, Any]], None]
Outcome = Reply | Failure

_UNSTRUCTURED = ("response_format", "json_schema", "structured output")


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
    # The pool of a client looks at all its connections for every request:
    # with 64 in one pool that is a quarter of the work.
    pools = min(8, -(-self.options.concurrency // 8))
    first = openai.AsyncOpenAI(
      api_key=api_key(self.options),
      base_url=self.options.base_url,
      timeout=self.options.timeout,
      max_retries=0,  # ours are counted, written down and limited
    )
    more = (first.copy(http_client=_http(openai)) for _ in range(1, pools))
    self._clients = itertools.cycle([first, *more])
    self._open = [next(self._clients) for _ in range(pools)]
    return self

  async def __aexit__(self, *exc: object) -> None:
    for client in self._open:
      await client.close()

  async def run(
    self,
    requests: Iterator[Request],
    handle: Callable[[Request, Outcome], Request | None],
    stop: Callable[[], bool] = lambda: False,
  ) -> None:
    """Asks everything, `options.concurrency` requests at a time.

    Args:
      requests: read in a thread, one at a time, as there is room.
      handle: gets each outcome; what it returns is asked next.
      stop: no new request is taken once this is true.

    Raises:
      UserError: the key is refused, the model does not exist, the quota is
        used up; or what `requests` and `handle` raise.
    """
    turn = asyncio.Lock()
    workers = [
      asyncio.create_task(self._work(requests, turn, handle, stop))
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
    requests: Iterator[Request],
    turn: asyncio.Lock,
    handle: Callable[[Request, Outcome], Request | None],
    stop: Callable[[], bool],
  ) -> None:
    while not stop():
      async with turn:  # pictures are read off the loop, one by one
        request = await asyncio.to_thread(next, requests, None)
      if request is None:
        return
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
    while True:
      structured = self.structured and request.schema is not None
      try:
        reply = await self._attempt(request, structured)
        self._breaker.success()
        return reply
      except Failure as failure:
        self._watch("failed", request, {"reason": failure.kind})
        if failure.kind == "auth":
          self._breaker.refused(failure.status)
        if structured and _about_schema(failure):
          self.structured = False  # plain text from now on
          continue
        attempt += 1
        if failure.final or attempt > self.options.retries:
          return failure
        await self._wait(failure, attempt)

  async def _wait(self, failure: Failure, attempt: int) -> None:
    wait = backoff(attempt, self.options.backoff)
    if failure.wait is not None:
      if failure.kind == "429":  # the account's limit: it holds for all
        self._limits.pause(failure.wait)
      wait = max(failure.wait, wait * 0.1)
    await asyncio.sleep(wait)

  async def _attempt(self, request: Request, structured: bool) -> Reply:
    tokens = request.tokens + (request.max_tokens or self.options.max_tokens)
    await self._limits.enter(tokens)
    self._watch("sent", request, {})
    data = await self._post(body(request, self.options, structured))
    reply = read_reply(request, data, structured, self.price)
    self._limits.used(tokens, reply.prompt_tokens + reply.completion_tokens)
    return reply

  async def _post(self, content: dict[str, Any]) -> Any:
    openai = self._openai
    try:
      async with asyncio.timeout(self.options.timeout):
        # `chat.completions.create` spends 4 ms on looking for files to upload
        # in every message, and checks a reply that we check ourselves.
        raw = await next(self._clients).post(
          "/chat/completions", cast_to=bytes, body=content
        )
      return json.loads(raw)
    except (TimeoutError, openai.APITimeoutError) as error:
      raise Failure("timeout", str(error)) from error
    except openai.APIStatusError as error:
      raise status_failure(error) from error
    except openai.APIConnectionError as error:
      raise Failure("connection", str(error.__cause__ or error)) from error
    except ValueError as error:
      raise Failure("bad_json", str(error)) from error


def _http(openai: Any) -> Any:
  return openai.DefaultAsyncHttpxClient()


def _about_schema(failure: Failure) -> bool:
  detail = failure.detail.lower()
  return failure.status in (400, 422) and any(
    word in detail for word in _UNSTRUCTURED
  )


def status_failure(error: Any) -> Failure:
  """The failure for an error status; UserError where nothing can go on."""
  status = error.status_code
  detail = str(error)[:500]
  if status in (401, 403):
    return Failure("auth", detail, status=status)
  if status == 404:
    raise UserError(f"the server knows no such model or path: {detail}")
  if status == 429:
    if error.code == "insufficient_quota" or "insufficient_quota" in detail:
      raise UserError(f"the account's quota is used up: {detail}")
    return Failure(
      "429", detail, wait=retry_after(error.response.headers), status=status
    )
  if status >= 500 or status in (408, 409, 425):
    wait = retry_after(error.response.headers)
    return Failure(str(status), detail, wait=wait, status=status)
  return Failure("bad_request", detail, final=True, status=status)
