"""The store of an injector: what happened to each item, exactly once.

Events, beside those of every store: run (settings), resumed (requests lost in
flight), sent (a request is about to be paid), accepted, refused (a gate said
no), given_up. Texts stay on disk: memory holds one offset per accepted item.
"""

import collections
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from povid_jax import files
from povid_jax.errors import UserError
from povid_jax.llm.store import Store, lock


class Journal(Store):
  """One run's events; also the state they add up to.

  Attributes:
    accepted: item key -> offset of its line.
    given_up: item key -> reason.
    tries: item key -> replies that a gate refused so far.
    in_flight: keys whose request was sent and never answered: after a kill
      these, and only these, may be paid for twice.
    gates: reason -> number; edits: kind -> number.
  """

  what = "journal"
  remedy = "choose another --out or start from the beginning with --no-resume"

  def __init__(self, path: Path, settings: Mapping[str, Any]):
    """Opens or makes the journal and replays it.

    Raises:
      UserError: another process uses it, a line is of another kind, or it was
        made with other settings.
    """
    self.accepted: dict[str, int] = {}
    self.given_up: dict[str, str] = {}
    self.tries: collections.Counter = collections.Counter()
    self.in_flight: set[str] = set()
    self.gates: collections.Counter = collections.Counter()
    self.edits: collections.Counter = collections.Counter()
    self._settings: dict | None = None
    super().__init__(path)
    try:
      self._check(dict(settings))
    except BaseException:
      self.close()
      raise

  def _check(self, settings: dict) -> None:
    settings = files.as_read(settings)
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
        f"{self.path} was made with other settings ({'; '.join(other)}); "
        "choose another --out, or start from the beginning with --no-resume"
      )
    # Sent by the run before and never answered.
    self.write("resumed", lost=len(self.in_flight), time=time.time())

  def apply(self, row: dict, offset: int) -> None:
    super().apply(row, offset)
    event, key = row["event"], row.get("key", "")
    if event == "run":
      self._settings = dict(row["settings"].items())
    elif event == "resumed":
      self.counts["lost_in_flight"] += row["lost"]
      self.in_flight.clear()
    elif event == "sent":
      self.in_flight.add(key)
    elif not event.startswith("batch"):
      self.in_flight.discard(key)
    if event == "accepted":
      self.accepted[key] = offset
      self.edits.update(edit["kind"] for edit in row["edits"])
    elif event == "refused":
      self.tries[key] += 1
      self.gates[row["reason"]] += 1
    elif event == "given_up":
      self.given_up[key] = row["reason"]

  def finished(self, key: str) -> bool:
    return key in self.accepted or key in self.given_up

  def result(self, key: str) -> dict:
    """The accepted event of an item, read back from disk."""
    return self.row(self.accepted[key])


def set_aside(path: Path, *others: Path) -> Path | None:
  """Renames a journal, so that a fresh one can start; nothing paid is lost.

  Args:
    others: what belongs to it, renamed alike where it is there.

  Raises:
    UserError: another process uses it.
  """
  if not path.exists():
    return None
  number = 1
  while (old := path.with_name(f"{path.name}.old-{number}")).exists():
    number += 1
  fd = os.open(path, os.O_RDWR)
  try:
    lock(fd, path)
    for other in others:
      if other.exists():
        other.rename(other.with_name(f"{other.name}.old-{number}"))
    path.rename(old)
  finally:
    os.close(fd)
  return old
