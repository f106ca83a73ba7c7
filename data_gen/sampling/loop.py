"""From pictures to pairs, a chunk at a time, everything in the journal."""

import argparse
import dataclasses
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from data_gen.gates import Refused
from data_gen.items import Item
from data_gen.sampling import pairs as pairs_lib
from data_gen.sampling.pairs import Candidate, Judged, Rules
from data_gen.sampling.sources import Source, Task
from data_gen.verify.base import Agreement, Asked
from povid_jax.data.text import join

if TYPE_CHECKING:
  from data_gen.job import Job


class Sampler(Protocol):
  """What the loop asks of the injector."""

  args: argparse.Namespace

  def task(self, item: Item, number: int, context: str) -> Task:
    """The context number `number` of an item."""
    ...

  def named(self, text: str) -> tuple[str, ...]:
    """The objects that a text names, each once."""
    ...


@dataclasses.dataclass
class _Before:
  """The sentence before, and what could have stood in its place."""

  context: str
  judged: Sequence[Judged]
  best: Judged


@dataclasses.dataclass
class _Work:
  """An item, its answer so far, and the pairs that it has given."""

  item: Item
  context: str = ""
  number: int = 0
  before: _Before | None = None
  pairs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  inventing: int = 0
  seen: int = 0


class Loop:
  """Chunks of items on their way from candidates to pairs."""

  def __init__(
    self, job: "Job", sample: Sampler, source: Source, agreement: Agreement
  ):
    self._job = job
    self._sample = sample
    self._source = source
    self._agreement = agreement
    self._args = sample.args
    self._rules = Rules(sample.args.pairs_per_context, sample.args.length_ratio)
    # what earlier runs wrote and learnt: context -> number -> candidate
    self._held: dict[str, dict[int, Candidate]] = defaultdict(dict)
    self._made = 0
    self._written = 0
    self._started = time.monotonic()

  def run(self, items: Sequence[Item]) -> None:
    pending = {item.key for item in items}
    for event in self._job.journal.events("candidate"):
      if event["key"] in pending:
        self._keep(event["task"], event["candidates"])
    for event in self._job.journal.events("presence"):
      self._agreement.remember(event["picture"], event["objects"])
    for start in range(0, len(items), self._args.chunk):
      self._chunk(items[start : start + self._args.chunk])

  def _keep(self, task: str, rows: Sequence[Sequence[Any]]) -> None:
    self._held[task].update({n: Candidate(n, t, e) for n, t, e in rows})

  def _chunk(self, items: Sequence[Item]) -> None:
    active = [_Work(item) for item in items]
    while active:
      tasks = [
        self._sample.task(work.item, work.number, work.context)
        for work in active
      ]
      self._write(active, tasks)
      complete = [
        (work, task)
        for work, task in zip(active, tasks, strict=True)
        if len(self._held[task.key]) == self._args.candidates
      ]  # those that lack one are left for the next run
      judged = self._judge(complete)
      active = [
        work
        for (work, task), each in zip(complete, judged, strict=True)
        if self._take(work, task, each)
      ]

  def _write(self, active: Sequence[_Work], tasks: Sequence[Task]) -> None:
    """Has the missing candidates written; each is in the journal at once."""
    item_of = {t.key: w.item for w, t in zip(active, tasks, strict=True)}
    lacking = [
      dataclasses.replace(task, known=frozenset(self._held[task.key]))
      for task in tasks
      if len(self._held[task.key]) < self._args.candidates
    ]
    if not lacking:
      return
    for task, candidates in self._source.write(lacking):
      rows = [
        [c.number, c.text, c.end]
        for c in candidates
        if c.number not in self._held[task.key]
      ]
      self._job.journal.write(
        "candidate",
        key=item_of[task.key].key,
        task=task.key,
        candidates=rows,
      )
      self._keep(task.key, rows)
      self._written += len(rows)
      self._show()

  def _judge(self, work: Sequence[tuple[_Work, Task]]) -> list[list[Judged]]:
    """The candidates of each context with what is known of their objects."""
    held = [
      [c for _, c in sorted(self._held.pop(task.key).items())]
      for _, task in work
    ]
    named = [[self._sample.named(c.text) for c in each] for each in held]
    asked = [
      Asked(
        task.pictures[0],
        tuple(dict.fromkeys(name for names in each for name in names)),
      )
      for (_, task), each in zip(work, named, strict=True)
    ]
    if not asked:
      return []
    present = self._agreement.present(asked)
    for a, presence in zip(asked, present, strict=True):
      if presence:
        self._job.journal.write(
          "presence", key="", picture=a.picture.key, objects=presence
        )
    return [
      [
        pairs_lib.judge(candidate, names, presence)
        for candidate, names in zip(candidates, each, strict=True)
      ]
      for candidates, each, presence in zip(held, named, present, strict=True)
    ]

  def _take(self, work: _Work, task: Task, judged: Sequence[Judged]) -> bool:
    """Takes the pairs of one context; whether the answer goes on."""
    work.seen += len(judged)
    work.inventing += sum(bool(j.wrong) for j in judged)
    pairs = pairs_lib.pick(judged, self._rules)
    work.pairs += [self._pair(work.context, *pair) for pair in pairs]
    if self._args.unit == "sentence":
      named = set(self._sample.named(work.context))
      if not pairs and work.before is not None:
        work.pairs += self._over(work.before, judged, named)
      best = pairs_lib.go_on(judged, named)
      if best is not None and best.candidate.end == "sentence":
        work.before = _Before(work.context, judged, best)
        work.context = join(work.context, best.candidate.text)
        work.number += 1
        if work.number < self._args.max_sentences:
          return True
    self._finish(work)
    return False

  def _pair(
    self, context: str, chosen: Judged, rejected: Judged, first: str = ""
  ) -> dict[str, Any]:
    """A pair behind a context; `first` comes before the rejected text."""
    pair: dict[str, Any] = {
      "chosen": chosen.candidate.text,
      "rejected": join(first, rejected.candidate.text),
      "invented": sorted(rejected.wrong),
    }
    if self._args.unit == "sentence":
      # </s> belongs to sentences that end the answer; where only one of the
      # two does, its end would be compared with nothing
      ends = [c.candidate.end == "stop" for c in (chosen, rejected)]
      pair |= {"context": context, "end_scored": all(ends)}
    return pair

  def _over(
    self, before: _Before, judged: Sequence[Judged], named: set[str]
  ) -> list[dict[str, Any]]:
    """The pair of an answer that is over, and the same that goes on.

    Both end, so their ends are scored: the pair teaches where to end.
    """
    found = pairs_lib.over(before.judged, before.best, judged, named)
    if found is None:
      return []
    return [self._pair(before.context, *found, before.best.candidate.text)]

  def _finish(self, work: _Work) -> None:
    facts: dict[str, Any] = {
      "candidates": work.seen,
      "inventing": work.inventing,
    }
    if work.pairs:
      self._made += len(work.pairs)
      self._job.settle(
        work.item, [], [], again=False, pairs=work.pairs, **facts
      )
      return
    kinds = {0: "nothing invented", work.seen: "nothing clean"}
    reason = kinds.get(
      work.inventing, "no two candidates of similar length and coverage"
    )
    detail = (
      f"{work.inventing} of {work.seen} candidates name an invented object"
    )
    refused = Refused(reason, detail)
    self._job.settle(work.item, [], [], refused, again=False, **facts)

  def _show(self) -> None:
    rate = self._made / max(time.monotonic() - self._started, 1e-9)
    self._job.note(
      f"{self._written:,} candidates, {self._made:,} pairs, {rate:.2f} pairs/s"
    )
