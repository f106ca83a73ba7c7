"""Many chat completions at once: retries, limits, and a stop for bad keys."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

from povid_jax import files, progress
from povid_jax.errors import UserError
from povid_jax.llm import client as clients
from povid_jax.llm.dialect import Dialect
from povid_jax.llm.failures import (
  Failure,
  connection_failure,
  error_words,
  failure_of,
  hidden,
  status_failure,
)
from povid_jax.llm.limits import Breaker, Limits, backoff
from povid_jax.llm.wire import Options, Reply, Request, body, read_reply

# (event, request, facts): "sent" before every attempt, "failed" after one
# without a usable reply. What the caller records here is on disk before the
# money is spent.
Watch = Callable[[str, Request, dict[str, Any]], None]
Outcome = Reply | Failure

_LONG_WAIT = 60.0  # longer pauses, in seconds, are announced


def _unwatched(event: str, request: Request, facts: dict[str, Any]) -> None:
  del event, request, facts


class Chat:
  """A connection to one server; use as an asynchronous context manager.

  Attributes:
    reserved: dollars that the requests in flight will cost at most.
    dialect: what the server takes, as far as it is known.
  """

  def __init__(self, options: Options, watch: Watch = _unwatched):
    self.options = options
    self.price = options.price
    self.reserved = 0.0
    self.dialect = Dialect(options)
    self._stop: Callable[[], bool] = lambda: False
    self._said = 0.0
    self._watch = watch
    self._limits = Limits(options.rpm, options.tpm)
    self._breaker = Breaker(options.key_env)

  async def __aenter__(self) -> "Chat":
    count = max(1, self.options.concurrency)
    self._idle = clients.make_clients(self.options, count)
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
      stop: no new request is taken, and none tried again, once this is true.

    Raises:
      UserError: the key is refused, the model does not exist, the quota is
        used up; or what `make` and `handle` raise.
    """
    self._stop = stop
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
      return await self._persist(request, most)
    finally:
      self.reserved -= most

  async def _persist(self, request: Request, most: float) -> Outcome:
    dialect = self.dialect
    attempt = 0
    plain = False  # whether this request is tried without its schema
    while True:
      asks = not plain and dialect.structured and request.schema is not None
      limit = dialect.limit
      try:
        reply = await self._attempt(request, asks, limit)
      except Failure as failure:
        self._watch("failed", request, failure.facts)
        if failure.kind == "auth":
          self._breaker.refused(failure)
        if failure.stop:
          raise UserError(f"{failure.stop}: {failure.detail}") from failure
        if dialect.rename_limit(failure, limit):
          continue
        if asks and dialect.about_schema(failure):
          plain = True
          continue
        attempt += 1
        if failure.final or attempt > self.options.retries or self._spent(most):
          return failure
        await self._wait(failure, attempt)
      else:
        self._breaker.success()
        if plain:
          dialect.plain_works()
        if not dialect.ignores_schema(reply):
          return reply
        unread = Failure("unstructured", usage=reply.usage, cost=reply.cost)
        self._watch("failed", request, unread.facts)
        if self._spent(most):
          return unread

  def _spent(self, most: float) -> bool:
    """Whether the budget forbids a further attempt of a request, whose own
    reservation does not count against it."""
    self.reserved -= most
    try:
      return self._stop()
    finally:
      self.reserved += most

  async def _wait(self, failure: Failure, attempt: int) -> None:
    wait = backoff(attempt, self.options.backoff)
    if failure.wait is not None:
      if failure.kind == "429":  # the account's limit: it holds for all
        self._limits.pause(failure.wait)
      wait = max(failure.wait, wait * 0.1)
      self._tell(failure)
    await asyncio.sleep(wait)

  def _tell(self, failure: Failure) -> None:
    """Prints once that the server requests a long pause."""
    wait, now = failure.wait or 0.0, time.monotonic()
    if wait >= _LONG_WAIT and now >= self._said:
      self._said = now + wait
      progress.say(long_wait(failure))

  async def _attempt(
    self, request: Request, structured: bool, limit: str
  ) -> Reply:
    tokens = request.tokens + (request.max_tokens or self.options.max_tokens)
    await self._limits.enter(tokens)
    self._watch("sent", request, {})
    content = body(request, self.options, structured, limit)
    data = self._decode(request, await self._post(content))
    found = error_words(data)
    if found:  # an error with status 200: nothing was written, nothing is paid
      raise failure_of(0, *found, self.options)
    reply = read_reply(request, data, structured, self.price)
    self._limits.used(tokens, reply.prompt_tokens + reply.completion_tokens)
    return reply

  def _decode(self, request: Request, raw: bytes) -> Any:
    """The reply as JSON; one that is torn has been paid for all the same."""
    try:
      return files.parse_json(raw)
    except ValueError as error:
      prompt = request.tokens
      most = request.max_tokens or self.options.max_tokens
      completion = min(len(raw) // 4, most)
      start = hidden(raw[:80].decode("utf-8", "replace"), self.options)
      kind = "a stream of events" if start.startswith("data:") else "no JSON"
      raise Failure(
        "bad_json",
        f"the reply is {kind}: {start!r} ({error})",
        usage={"prompt": prompt, "completion": completion},
        cost=self.price.cost(prompt, completion),
      ) from error

  async def _post(self, content: dict[str, Any]) -> bytes:
    openai = clients.library()
    client = self._idle.pop()
    try:
      async with asyncio.timeout(self.options.timeout):
        # `chat.completions.create` spends 4 ms on looking for files to upload
        # in every message, and checks a reply that we check ourselves.
        return await client.post(
          "/chat/completions", cast_to=bytes, body=content
        )
    except (TimeoutError, openai.APITimeoutError) as error:
      words = f"no reply within --timeout {self.options.timeout:g} s"
      raise Failure("timeout", words) from error
    except openai.APIStatusError as error:
      raise status_failure(error, self.options) from error
    except Exception as error:  # the libraries raise errors of many types
      raise connection_failure(error, self.options) from error
    finally:
      self._idle.append(client)


def long_wait(failure: Failure) -> str:
  """The line that reports a long pause."""
  seconds = failure.wait or 0.0
  minutes = round(seconds / 60)
  pause = f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
  until = time.strftime("%H:%M", time.localtime(time.time() + seconds))
  return (
    f"the server requests a pause of {pause}, until {until} "
    f"({failure.words}). You may press Ctrl-C and run the same command again "
    "later"
  )
