"""The record that makes every item exactly-once across kill -9.

Append-only JSONL, one event per line, rather than SQLite: a line is on its way
to the kernel before the call returns, so kill -9 can tear only the last one
(it is cut off at the next start); appending costs microseconds and never waits
for a lock or a checkpoint; and when money was spent, `grep` is the best viewer.
What SQLite would add (queries, several writers) is not needed: one process
owns the file, and all it asks is the last state of each item.

Events: run (settings), resumed (requests lost in flight), sent (a request is
about to be paid), accepted, refused (a gate said no), failed (no usable reply),
given_up, and batch events (see `batch`). Texts stay on disk: memory holds one
offset per accepted item.
"""

import collections
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.files import ensure_parent

# Seconds between two fsyncs: what a power cut (not a kill) may cost.
_SYNC_EVERY = 2.0


class Journal:
  """One run's events; also the state they add up to.

  Attributes:
    accepted: item key -> offset of its line.
    given_up: item key -> reason.
    tries: item key -> replies that a gate refused so far.
    in_flight: keys whose request was sent and never answered: after a kill
      these, and only these, may be paid for twice.
    counts: event -> number; gates and failures: reason -> number.
    cost: dollars; tokens: prompt and completion tokens.
    batches: batch id -> its last event, for `openai-batch`.
  """

  def __init__(self, path: Path, settings: Mapping[str, Any]):
    """Opens or makes the journal and replays it.

    Raises:
      UserError: another process has it, a line is not ours, or it was made
        with other settings.
    """
    self.path = path
    self.accepted: dict[str, int] = {}
    self.given_up: dict[str, str] = {}
    self.tries: collections.Counter = collections.Counter()
    self.in_flight: set[str] = set()
    self.counts: collections.Counter = collections.Counter()
    self.gates: collections.Counter = collections.Counter()
    self.failures: collections.Counter = collections.Counter()
    self.tokens: collections.Counter = collections.Counter()
    self.edits: collections.Counter = collections.Counter()
    self.cost = 0.0
    self.batches: dict[str, dict] = {}
    self._settings: dict | None = None
    self._synced = time.monotonic()
    self._turn = threading.Lock()
    self._fd = self._open()
    try:
      _lock(self._fd, self.path)
      self._size = self._replay()
      self._check(dict(settings))
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
          os.ftruncate(self._fd, offset)
          break
        self._apply(self._parse(line, number), offset)
        offset += len(line)
    return offset

  def _parse(self, line: bytes, number: int) -> dict:
    try:
      event = json.loads(line)
      event["event"]
      return event
    except (ValueError, TypeError, KeyError) as error:
      raise UserError(
        f"{self.path}, line {number}: not a line of a journal; "
        "name another --out or start afresh with --no-resume"
      ) from error

  def _check(self, settings: dict) -> None:
    settings = json.loads(json.dumps(settings))
    if self._settings is None:
      self.write("run", settings=settings, time=time.time())
      return
    names = sorted(self._settings.keys() | settings.keys())
    other = [
      f"{name} was {self._settings.get(name)!r}, now {settings.get(name)!r}"
      for name in names
      if self._settings.get(name) != settings.get(name)
    ]
    if other:
      raise UserError(
        f"{self.path} was made with other settings ({'; '.join(other)}); name "
        "another --out, or start afresh with --no-resume"
      )
    # Sent by the run before and never answered.
    self.write("resumed", lost=len(self.in_flight), time=time.time())

  def write(self, event: str, **fields: Any) -> None:
    """Appends one event; it survives a kill when this returns."""
    row = {"event": event, **fields}
    line = (json.dumps(row) + "\n").encode()
    with self._turn:  # pictures are read, and may fail, in another thread
      self._append(line)
      self._apply(row, self._size)
      self._size += len(line)

  def _append(self, line: bytes) -> None:
    written = 0
    while written < len(line):  # a full disk may take a part
      written += os.write(self._fd, line[written:])
    if time.monotonic() - self._synced > _SYNC_EVERY:
      os.fsync(self._fd)
      self._synced = time.monotonic()

  def _apply(self, row: dict, offset: int) -> None:
    event, key = row["event"], row.get("key", "")
    self.counts[event] += 1
    self.cost += row.get("cost", 0.0)
    self.tokens.update(row.get("usage", {}))
    if event == "run":
      self._settings = row["settings"]
    elif event == "resumed":
      self.counts["lost_in_flight"] += row["lost"]
      self.in_flight.clear()
    elif event == "sent":
      self.in_flight.add(key)
    elif event.startswith("batch"):
      self._apply_batch(row)
    else:
      self.in_flight.discard(key)
    if event == "accepted":
      self.accepted[key] = offset
      self.edits.update(edit["kind"] for edit in row["edits"])
    elif event == "refused":
      self.tries[key] += 1
      self.gates[row["reason"]] += 1
    elif event == "failed":
      self.failures[row["reason"]] += 1
    elif event == "given_up":
      self.given_up[key] = row["reason"]

  def _apply_batch(self, row: dict) -> None:
    self.failures.update(row.get("failed", {}))
    self.batches[row["batch"]] = self.batches.get(row["batch"], {}) | row

  @property
  def batched(self) -> int:
    """Requests in all batches that were submitted."""
    batches = self.batches.values()
    return sum(batch["requests"] for batch in batches if "remote" in batch)

  def finished(self, key: str) -> bool:
    return key in self.accepted or key in self.given_up

  def result(self, key: str) -> dict:
    """The accepted event of an item, read back from disk."""
    return json.loads(self._line(self.accepted[key]))

  def _line(self, offset: int) -> bytes:
    pieces = []
    while not pieces or b"\n" not in pieces[-1]:
      piece = os.pread(self._fd, 1 << 16, offset)
      if not piece:
        break
      pieces.append(piece)
      offset += len(piece)
    return b"".join(pieces).split(b"\n", 1)[0]

  def events(self, event: str) -> Iterator[dict]:
    """All events of a kind, oldest first, read back from disk."""
    with open(self.path, "rb") as file:
      for line in file:
        row = json.loads(line)
        if row["event"] == event:
          yield row

  def close(self) -> None:
    os.fsync(self._fd)
    os.close(self._fd)


def _lock(fd: int, path: Path) -> None:
  try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    raise UserError(
      f"{path} is in use by another process; wait for it to end"
    ) from error


def set_aside(path: Path, *others: Path) -> Path | None:
  """Renames a journal, so that a fresh one can start; nothing paid is lost.

  Args:
    others: what belongs to it, renamed alike where it is there.

  Raises:
    UserError: another process is at work on it.
  """
  if not path.exists():
    return None
  number = 1
  while (old := path.with_name(f"{path.name}.old-{number}")).exists():
    number += 1
  fd = os.open(path, os.O_RDWR)
  try:
    _lock(fd, path)
    for other in others:
      if other.exists():
        other.rename(other.with_name(f"{other.name}.old-{number}"))
    path.rename(old)
  finally:
    os.close(fd)
  return old
