"""One run of `inject`: items, gates, journal, progress, and what comes out."""

import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_gen.gates import Refused
from data_gen.injectors.base import Injector
from data_gen.items import Item
from data_gen.journal import Journal
from povid_jax import progress
from povid_jax.data.pairs import Sample, write_samples
from povid_jax.errors import UserError
from povid_jax.files import atomic_write, check_writable
from povid_jax.llm.prices import dollars


def check_output(out: Path, source: str) -> None:
  """Raises UserError before any work if an output cannot be used."""
  check_writable(out)
  if out.resolve() == Path(source).resolve():
    raise UserError(f"--out {out} is the input file; choose another file")


@dataclasses.dataclass(frozen=True)
class Paths:
  """The files of a run, all beside `--out`."""

  out: Path

  def _beside(self, name: str) -> Path:
    stem = self.out.stem
    return self.out.with_name(name if stem == "pairs" else f"{stem}.{name}")

  @property
  def journal(self) -> Path:
    return self._beside("journal.jsonl")

  @property
  def rejected(self) -> Path:
    return self._beside("rejected.jsonl")

  @property
  def skipped(self) -> Path:
    return self._beside("skipped.jsonl")

  @property
  def summary(self) -> Path:
    return self._beside("summary.json")

  @property
  def batches(self) -> Path:
    return self._beside("batches")


@dataclasses.dataclass
class Job:
  """Items on their way to pairs.

  Attributes:
    items: in the order of the input.
    journal: decides what is done already.
    injector: writes the rejected answers, judges them and makes the pairs.
    tries: replies per item before it is given up.
    max_cost: dollars after which nothing new is asked; None: no bound.
    patience: so many items in a row may be used up without one that is
      accepted; then the fault lies in what all have in common (the server, the
      model), and the run stops and gives nothing up. None: no such stop.
    problem: the reason why the last unusable reply could not be used, or "".
  """

  items: list[Item]
  journal: Journal
  injector: Injector
  tries: int
  max_cost: float | None = None
  patience: int | None = None

  def __post_init__(self) -> None:
    self.started = time.monotonic()
    self.first = self._finished()
    self._bar = None
    self._noted = self.started
    self.problem = ""
    # Items that used up their tries, until another one is accepted.
    self._held: dict[str, tuple[Item, str]] = {}
    self._proven = False  # an item of this run was accepted

  def __enter__(self) -> "Job":
    self._bar = progress.bar(
      total=len(self.items),
      initial=self.first,
      desc=self.injector.name,
      unit="items",
    )
    return self

  def __exit__(self, *exc: object) -> None:
    self.end_progress()
    self.journal.close()

  def end_progress(self) -> None:
    if self._bar is not None:
      self._bar.close()

  def _finished(self) -> int:
    return sum(self.journal.finished(item.key) for item in self.items)

  def pending(self) -> list[Item]:
    """Items that are to be asked about."""
    return [i for i in self.items if not self._over(i)]

  def _over(self, item: Item) -> bool:
    return self.journal.finished(item.key) or item.key in self._held

  def settle(
    self,
    item: Item,
    rejected: Sequence[str],
    edits: list[dict],
    refused: Refused | None = None,
    again: bool = True,
    chosen: Sequence[str] | None = None,
    **paid: Any,
  ) -> bool:
    """Judges one reply and records it; True when the item is finished.

    Args:
      item: what was asked.
      rejected: the wrong answers, one per answer of the item.
      edits: [{span, original, kind}].
      refused: a verdict reached before (a reply that could not be read).
      again: whether another try may bring another answer; else an item that
        is refused is given up at once.
      chosen: the right answers, where they are not the item's own.
      **paid: usage, cost and other facts for the journal.
    """
    facts = paid if chosen is None else paid | {"chosen": list(chosen)}
    verdict = refused or self.injector.check(item, rejected, edits, chosen)
    if verdict is None:
      self.journal.write(
        "accepted", key=item.key, rejected=list(rejected), edits=edits, **facts
      )
      self._proven = True
      self._release()
    else:
      self.journal.write(
        "refused",
        key=item.key,
        reason=verdict.reason,
        detail=verdict.detail,
        rejected=list(rejected),
        **facts,
      )
      self.problem = ": ".join(filter(None, (verdict.reason, verdict.detail)))
      if not again or self.journal.tries[item.key] >= self.tries:
        self._exhausted(item, verdict.reason)
    finished = self._over(item)
    self._show(finished)
    return finished

  def lose(self, item: Item, reason: str, detail: str) -> None:
    """Gives up an item that no reply can help (its picture is broken)."""
    self.journal.write(
      "refused", key=item.key, reason=reason, detail=detail, rejected=[]
    )
    self.journal.write("given_up", key=item.key, reason=reason)
    self._show(True)

  def _exhausted(self, item: Item, reason: str) -> None:
    """Gives an item up, or keeps it while the fault may be the server's."""
    if self.patience is None:
      self.journal.write("given_up", key=item.key, reason=reason)
      return
    self._held[item.key] = (item, reason)

  def check_patience(self) -> None:
    """For injectors to call between items (or batches of them).

    Raises:
      UserError: as many as `patience` were used up in a row.
    """
    if self.patience is not None and len(self._held) >= self.patience:
      raise self._useless()

  def _release(self) -> None:
    """Gives up the items that were held back: other items pass, so the fault is
    in these items.
    """
    for item, reason in self._held.values():
      self.journal.write("given_up", key=item.key, reason=reason)
    self._held.clear()

  def end(self) -> None:
    """Decides about the items that are still held back at the end.

    Raises:
      UserError: no item of this run was accepted. Nothing is given up then,
        unless a run before this one had some accepted and this is the second
        one that these few items failed.
    """
    if not self._held:
      return
    failed_before = bool(self.journal.accepted) and all(
      self.journal.tries[key] > self.tries for key in self._held
    )
    if not self._proven and not failed_before:
      raise self._useless()
    self._release()

  def _useless(self) -> UserError:
    count = len(self._held)
    return UserError(
      f"{count} items in a row without a usable reply (the last error: "
      f"{self.problem[:400]}); no item is lost: correct the cause and run the "
      "same command again"
    )

  def note(self, text: str) -> None:
    """Shows what the run waits for; in a log file only from time to time."""
    if self._bar is None:
      return
    now = time.monotonic()
    due = sys.stderr.isatty() or now - self._noted >= progress.SECONDS
    if due:
      self._noted = now
    self._bar.set_postfix_str(text, refresh=due)

  def _show(self, finished: bool) -> None:
    if self._bar is None:
      return
    troubles = self.journal.gates + self.journal.failures
    worst = ", ".join(f"{k} {n}" for k, n in troubles.most_common(4))
    cost = dollars(self.journal.cost) if self.journal.cost else ""
    shown = "; ".join(filter(None, (cost, worst)))
    self._bar.set_postfix_str(shown, refresh=False)
    self._bar.update(int(finished))

  def pairs(self) -> Iterator[Sample]:
    """The pairs of all accepted items, in the order of the input."""
    for item in self.items:
      if item.key in self.journal.accepted:
        yield from self.injector.pairs(item, self.journal.result(item.key))

  def write_outputs(self, paths: Paths) -> None:
    """Writes the pairs, in the order of the input, and the rejected items."""
    write_samples(paths.out, self.pairs())
    lost = [i for i in self.items if i.key in self.journal.given_up]
    with atomic_write(paths.rejected) as file:
      replies = self._refused_replies({i.key for i in lost})
      for item in lost:
        file.write(json.dumps(self._rejected_row(item, replies)) + "\n")

  def _refused_replies(self, keys: set[str]) -> Mapping[str, list[dict]]:
    replies: dict[str, list[dict]] = {key: [] for key in keys}
    for event in self.journal.events("refused") if keys else ():
      if event["key"] in keys:
        names = ("reason", "detail", "rejected")
        replies[event["key"]].append({n: event[n] for n in names})
    return replies

  def _rejected_row(
    self, item: Item, replies: Mapping[str, list[dict]]
  ) -> dict[str, Any]:
    return {
      "id": item.sample.id,
      "variant": item.variant,
      "image": [picture.name for picture in item.sample.images],
      "category": item.category,
      "reason": self.journal.given_up[item.key],
      "answers": list(item.answers),
      "tries": replies[item.key],
    }

  def summary(self) -> dict[str, Any]:
    """The totals of this run and the runs that it continues."""
    journal = self.journal
    keys = [item.key for item in self.items]
    finished = self._finished()
    seconds = time.monotonic() - self.started
    return {
      "injector": self.injector.label,
      "items": len(keys),
      "accepted": sum(key in journal.accepted for key in keys),
      "rejected": sum(key in journal.given_up for key in keys),
      "left": len(keys) - finished,
      "done_before": self.first,
      "gates": dict(journal.gates.most_common()),
      "failures": dict(journal.failures.most_common()),
      "edits": dict(journal.edits.most_common()),
      "requests": journal.counts["sent"] + journal.batched,
      "batches": journal.counts["batch_submitted"],
      "lost_in_flight": journal.counts["lost_in_flight"],
      "tokens": dict(journal.tokens),
      "cost": round(journal.cost, 6),
      "price_known": self.injector.price_known,
      "seconds": round(seconds, 3),
      "items_per_second": round(
        (finished - self.first) / max(seconds, 1e-9), 1
      ),
    }


def table(summary: Mapping[str, Any]) -> str:
  """The summary as lines to print."""
  rows: list[tuple[str, str]] = []
  known = summary["price_known"]
  for name, value in summary.items():
    if name == "price_known":
      continue
    if isinstance(value, Mapping):
      value = ", ".join(f"{k} {n}" for k, n in value.items()) or "none"
    elif name == "cost":
      value = "no price known (--prices FILE)" if not known else dollars(value)
    rows.append((name.replace("_", " "), str(value)))
  width = max(len(name) for name, _ in rows)
  return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
