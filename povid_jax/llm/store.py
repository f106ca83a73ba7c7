"""What was paid for, exactly once across kill -9: one file, one owner.

Append-only JSONL, one row per line, rather than SQLite: a line is on its way to
the kernel before the call returns, so kill -9 can tear only the last one (it is
cut off at the next start); appending costs microseconds and never waits for a
checkpoint; and when money was spent, `grep` is the best viewer. What SQLite
would add (queries, several writers) is not needed: one process owns the file,
and all it asks is the last state of each request.

A row with an `event` is one of: failed (no usable reply, with what it cost),
batch_* (the steps of a batch, see `batches`), and those of the store's own kind
(`data_gen.journal`, `log`).
"""

import collections
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from povid_jax import files
from povid_jax.errors import UserError
from povid_jax.files import ensure_parent

# Seconds between two fsyncs: what a power cut (not a kill) may cost.
_SYNC_EVERY = 2.0


class Store:
  """The rows of one file; also the state that they add up to.

  Attributes:
    what: names the kind of file in errors.
    remedy: what to do about a file of another kind.
    counts: event -> number; failures: reason -> number.
    cost: dollars; tokens: prompt and completion tokens.
    batches: our name of a batch -> its facts; the last `event` is its state.
  """

  what = "reply log"
  remedy = "choose another file"

  def __init__(self, path: Path):
    """Opens or makes the file and replays it.

    Raises:
      UserError: another process uses the file, or a line is of another kind.
    """
    self.path = path
    self.counts: collections.Counter = collections.Counter()
    self.failures: collections.Counter = collections.Counter()
    self.tokens: collections.Counter = collections.Counter()
    self.cost = 0.0
    self.batches: dict[str, dict] = {}
    self._synced = time.monotonic()
    self._turn = threading.Lock()
    self._fd = self._open()
    try:
      lock(self._fd, path)
      self._size = self._replay()
    except BaseException:
      os.close(self._fd)  # and lets the lock go
      raise

  def _open(self) -> int:
    ensure_parent(self.path)
    try:
      return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
      raise UserError(f"cannot write {self.path}: {error.strerror}") from error

  def _replay(self) -> int:
    offset = 0
    with open(self.path, "rb") as file:
      for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):  # torn by a kill
          if number == 1 and not self.begins(line):
            raise self._foreign(number)
          os.ftruncate(self._fd, offset)
          break
        try:
          self.apply(files.parse_json(line), offset)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
          raise self._foreign(number) from error
        offset += len(line)
    return offset

  def begins(self, line: bytes) -> bool:
    """Whether a first line without an end may be one of ours, torn."""
    return any(
      start.startswith(line[: len(start)]) for start in (b'{"event"', b'{"key"')
    )

  def _foreign(self, number: int) -> UserError:
    return UserError(
      f"{self.path}, line {number}: not a line of a {self.what}; {self.remedy}"
    )

  def append(self, row: dict[str, Any]) -> None:
    """Appends one row; it survives a kill when this returns."""
    line = (json.dumps(row) + "\n").encode()
    with self._turn:  # pictures are read, and may fail, in another thread
      self._put(line)
      self.apply(row, self._size)
      self._size += len(line)

  def write(self, event: str, **fields: Any) -> None:
    """Appends an event."""
    self.append({"event": event, **fields})

  def _put(self, line: bytes) -> None:
    written = 0
    while written < len(line):  # a full disk may take a part
      written += os.write(self._fd, line[written:])
    if time.monotonic() - self._synced > _SYNC_EVERY:
      os.fsync(self._fd)
      self._synced = time.monotonic()

  def apply(self, row: dict, offset: int) -> None:
    """Adds a row to the state; KeyError, TypeError for one that is none of
    ours. `offset` is where its line begins."""
    del offset
    event = row["event"]
    self.counts[event] += 1
    self.cost += row.get("cost", 0.0)
    self.tokens.update(row.get("usage", {}))
    if event == "failed":
      self.failures[row["reason"]] += 1
    elif event.startswith("batch"):
      self.failures.update(row.get("failed", {}))
      batch = self.batches.get(row["batch"], {}) | row
      if event == "batch_waiting":  # what was submitted is no more
        batch = {k: v for k, v in batch.items() if k not in ("remote", "since")}
      self.batches[row["batch"]] = batch

  @property
  def batched(self) -> int:
    """Requests in all batches that were submitted."""
    batches = self.batches.values()
    return sum(batch["requests"] for batch in batches if "remote" in batch)

  def row(self, offset: int) -> dict:
    """A row read back from disk."""
    pieces = []
    while not pieces or b"\n" not in pieces[-1]:
      piece = os.pread(self._fd, 1 << 16, offset)
      if not piece:
        break
      pieces.append(piece)
      offset += len(piece)
    return files.parse_json(b"".join(pieces).split(b"\n", 1)[0])

  def events(self, event: str) -> Iterator[dict]:
    """All events of a kind, oldest first, read back from disk."""
    with open(self.path, "rb") as file:
      for line in file:
        row = files.parse_json(line)
        if row.get("event") == event:
          yield row

  def close(self) -> None:
    os.fsync(self._fd)
    os.close(self._fd)


def lock(fd: int, path: Path) -> None:
  """Locks the file for this process.

  Raises:
    UserError: another process holds the lock.
  """
  try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    raise UserError(
      f"{path} is in use by another process; wait for it to end"
    ) from error
