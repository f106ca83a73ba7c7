"""The Batch API: request files, upload, submit, poll, fetch.

Each call is repeated when the server fails; none of them keeps state. What
makes a sequence of them safe against a kill is the caller's journal, and
`find`: a batch carries the caller's name for it, so one whose submission was
never written down can be found on the server instead of being paid for again.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from povid_jax import files, progress
from povid_jax.errors import UserError
from povid_jax.files import atomic_write
from povid_jax.llm import client as clients
from povid_jax.llm.chat import long_wait
from povid_jax.llm.failures import (
  Failure,
  connection_failure,
  error_words,
  failure_of,
  hidden,
  status_failure,
)
from povid_jax.llm.limits import Breaker, backoff
from povid_jax.llm.wire import Options, Request, body

ENDPOINT = "/v1/chat/completions"
# The provider's limits on one file.
MOST_REQUESTS = 50_000
MOST_BYTES = 200 * 1000 * 1000
_NAME = "povid_batch"  # the key of our name in a batch's metadata

_CLOCKS_DIFFER = 3600  # seconds

# States in which a batch has come to its end. Gateways have states of their
# own for a batch that waits: any other is an open one.
_ENDED = frozenset(
  "completed complete succeeded success done finished failed failure error"
  " errored expired cancelled canceled rejected".split()
)
# Codes and words of a batch that the account has no room for yet.
_NO_ROOM = ("token_limit_exceeded", "enqueued token limit")


@dataclass(frozen=True)
class Status:
  """A batch on the server.

  Attributes:
    remote: the server's id.
    state: "validating", "completed", "failed", ... in small letters.
    files: ids of the output and error files that exist.
    done, total: requests.
    problem: why it failed, "" otherwise.
  """

  remote: str
  state: str
  files: tuple[str, ...]
  done: int
  total: int
  problem: str

  @property
  def ended(self) -> bool:
    return self.state in _ENDED

  @property
  def crowded_out(self) -> bool:
    """Whether it failed because others of the account are still at work."""
    words = self.problem.lower()
    return self.ended and not self.files and any(w in words for w in _NO_ROOM)


@dataclass(frozen=True)
class Row:
  """One line of an output or error file: a body, or a failure."""

  custom_id: str
  body: Any
  failure: Failure | None


def line(
  request: Request,
  options: Options,
  structured: bool,
  limit: str | None = None,
) -> bytes:
  """One line of a request file; the arguments are those of `body`."""
  row = {
    "custom_id": request.key,
    "method": "POST",
    "url": ENDPOINT,
    "body": body(request, options, structured, limit),
  }
  return json.dumps(row).encode() + b"\n"


def write_files(
  lines: Iterable[bytes],
  names: Iterator[Path],
  most_requests: int = MOST_REQUESTS,
  most_bytes: int = MOST_BYTES,
) -> Iterator[tuple[Path, int]]:
  """Writes request files within the limits; each is whole when yielded.

  Args:
    lines: of `line`.
    names: where to write one file after the other.
    most_requests, most_bytes: limits on one file.

  Yields:
    (path, number of requests).

  Raises:
    UserError: one request alone is larger than a file may be.
  """
  chunk: list[bytes] = []
  size = 0
  for row in lines:
    if len(row) > most_bytes:
      raise UserError(
        f"one request has {len(row):,} bytes, a batch file at most "
        f"{most_bytes:,}; send smaller pictures (--image-size)"
      )
    if chunk and (len(chunk) == most_requests or size + len(row) > most_bytes):
      yield _write(next(names), chunk)
      chunk, size = [], 0
    chunk.append(row)
    size += len(row)
  if chunk:
    yield _write(next(names), chunk)


def _write(path: Path, chunk: list[bytes]) -> tuple[Path, int]:
  with atomic_write(path, "wb") as file:
    file.writelines(chunk)
  return path, len(chunk)


def custom_ids(path: Path) -> list[str]:
  """The names of the requests in a file."""
  return [row["custom_id"] for row in files.json_objects(path)]


class BatchClient:
  """Calls of the Batch API with retries.

  Raises (all methods):
    UserError: the key is refused, or the server failed `options.retries`
      times in a row.
  """

  def __init__(self, options: Options):
    self._openai = clients.library()
    self._options = options
    self._breaker = Breaker(options.key_env)
    self._client = clients.make_client(options)

  def close(self) -> None:
    self._client.close()

  def upload(self, path: Path) -> str:
    """Uploads a request file; returns its id."""

    def call() -> str:
      with open(path, "rb") as file:
        return self._client.files.create(file=file, purpose="batch").id

    return self._repeat(call)

  def submit(
    self, file_id: str, name: str, since: float, maybe: bool = False
  ) -> str:
    """Starts a batch that carries our name; returns the server's id.

    Args:
      file_id: of the uploaded request file.
      name: ours, unique.
      since: time (seconds since 1970) before which it cannot have started.
      maybe: it may be there already, so look first. After a failure that is
        always so: the server may have started it and not have said so.
    """

    def call() -> str:
      nonlocal maybe
      found = self.find(name, since) if maybe else None
      maybe = True
      if found:
        return found
      return self._client.batches.create(
        input_file_id=file_id,
        endpoint=ENDPOINT,
        completion_window="24h",
        metadata={_NAME: name},
      ).id

    return self._repeat(call)

  def find(self, name: str, since: float) -> str | None:
    """The server's id of the batch that carries our name, None if none does;
    looks at batches from `since` on."""
    for batch in self._client.batches.list(limit=100):  # newest first
      if (batch.metadata or {}).get(_NAME) == name:
        return batch.id
      if (batch.created_at or since) < since - _CLOCKS_DIFFER:
        break
    return None

  def status(self, remote: str) -> Status:
    batch = self._repeat(lambda: self._client.batches.retrieve(remote))
    counts = batch.request_counts
    errors = (batch.errors.data or []) if batch.errors else []
    problem = "; ".join(f"{e.code}: {e.message}" for e in errors[:3])
    return Status(
      remote=remote,
      state=str(batch.status or "unknown").lower(),
      files=tuple(filter(None, (batch.output_file_id, batch.error_file_id))),
      done=counts.completed + counts.failed if counts else 0,
      total=counts.total if counts else 0,
      problem=hidden(problem, self._options)[:500],
    )

  def rows(self, file_id: str) -> Iterator[Row]:
    """The lines of an output or error file; torn ones are left out."""
    content = self._repeat(lambda: self._client.files.content(file_id).read())
    for text in content.split(b"\n"):
      # one that is torn has no reply then, and is sent once more
      if (row := read_row(text, self._options)) is not None:
        yield row

  def _repeat(self, call: Callable[[], Any]) -> Any:
    openai = self._openai
    attempt = 0
    while True:
      try:
        result = call()
        self._breaker.success()
        return result
      except openai.APIStatusError as error:
        failure = status_failure(error, self._options)
      except openai.APIResponseValidationError as error:
        failure = Failure("bad_reply", hidden(str(error), self._options)[:300])
      except OSError:
        raise  # the request file cannot be read
      except Exception as error:  # time-outs too, whatever libraries raise
        failure = connection_failure(error, self._options)
      if failure.kind == "auth":
        self._breaker.refused(failure)
      if failure.stop:
        raise UserError(f"{failure.stop}: {failure.detail}")
      attempt += 1
      if failure.final or attempt > self._options.retries:
        raise UserError(
          f"the batch endpoint failed {attempt} times ({failure.words}); run "
          "the same command again to continue"
        )
      wait = max(backoff(attempt, self._options.backoff), failure.wait or 0)
      if (failure.wait or 0) >= 60:
        progress.say(long_wait(failure))
      time.sleep(wait)


def read_row(text: bytes, options: Options) -> Row | None:
  """A line of an output or error file; None for one that is torn."""
  try:
    return _row(files.parse_json(text), options)
  except (ValueError, KeyError, TypeError, AttributeError):
    return None


def _row(data: Any, options: Options) -> Row:
  name = str(data["custom_id"])
  response = data.get("response") or {}
  status = response.get("status_code", 0)
  body = response.get("body")
  found = error_words(body) or error_words({"error": data.get("error")})
  if status == 200 and found is None:
    return Row(name, body, None)
  code, message = found or ("", json.dumps(body or data.get("error"))[:200])
  failure = failure_of(status, code, message, options)
  if failure.kind == "error_body":  # by the server's own name: "batch_expired"
    failure.kind = code or "row"
  return Row(name, None, failure)
