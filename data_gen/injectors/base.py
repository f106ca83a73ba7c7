"""The interface of an injector, which makes pairs from samples.

An injector is one class: its flags, the settings that decide its answers, and
`run(job)`, which settles every pending item. All of them go through the same
job, journal, gates and list of skipped samples (`data_gen.drive`), so that each
continues after any interruption and loses nothing silently.

To add one: a module here with a subclass of `Injector`, and its line in the
registry (`data_gen.injectors`). Modules are imported for `--help`: whatever is
slow to import belongs inside `run`.
"""

import abc
import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from data_gen import gates
from data_gen.items import Annotations, Item, load_samples
from data_gen.rules.lexicon import Lexicon
from povid_jax.data.pairs import Sample
from povid_jax.data.samples import Layout
from povid_jax.errors import UserError

if TYPE_CHECKING:
  from data_gen.job import Job


@dataclasses.dataclass(frozen=True)
class World:
  """What is known beside the items.

  Attributes:
    samples: all that could be read.
    lexicon: finds objects in texts.
    annotations: of the pictures, empty where none were given.
  """

  samples: Sequence[Sample]
  lexicon: Lexicon
  annotations: Annotations


class Injector(abc.ABC):
  """Makes pairs; see the module's text.

  Attributes:
    name: what the registry calls it.
    summary: one line for `--help`.
    gated: its answers are edits of the correct ones, and the flags of the
      quality gates apply.
    whole_input: it learns from all samples, also from those that `--limit`
      leaves out.
    asks: it asks a server, whose fault it may be that nothing is accepted:
      `--patience` applies.
    looks: it sees the pictures, so each must be within reach.
    price_known: False where replies cost money and nobody says how much.
    world: set by `prepare`.
  """

  name: ClassVar[str]
  summary: ClassVar[str]
  gated: ClassVar[bool] = True
  whole_input: ClassVar[bool] = False
  asks: ClassVar[bool] = False
  looks: ClassVar[bool] = False
  price_known: bool = True

  def __init__(self, args: argparse.Namespace):
    """Reads the flags.

    Raises:
      UserError: a flag has an invalid value.
    """
    self.args = args
    self.world = World((), Lexicon(), Annotations({}, {}, []))

  @staticmethod
  @abc.abstractmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this injector alone."""

  @property
  @abc.abstractmethod
  def label(self) -> str:
    """Name and version of the injector ("rules/4"), stored in every pair."""

  def settings(self) -> dict[str, Any]:
    """All that decides an answer. The journal keeps it, and a run with other
    settings does not continue it. Values that JSON can hold."""
    return {"limits": vars(limits(self.args))} if self.gated else {}

  def load(
    self, path: str, on_bad: Callable[[UserError], None] | None
  ) -> Sequence[Sample]:
    """The samples of --input; `on_bad` gets rows that cannot be read.

    Raises:
      UserError: the first bad row, without `on_bad`.
    """
    args = self.args
    layout = Layout(args.image_dir, args.format, args.columns)
    return load_samples(path, on_bad, layout, print)

  def wants(self, item: Item) -> bool:
    """Whether an item is this run's (else another machine's)."""
    del item
    return True

  def check_sample(self, sample: Sample) -> None:
    """UserError for a sample that cannot be worked on."""
    for picture in sample.images:
      if self.looks or picture.folder is not None:
        picture.check()

  def prepare(self, world: World) -> None:
    """Gets what is known of all samples, before `dry_run`, `settings`, `run`.

    Raises:
      UserError: a needed file or flag is missing.
    """
    self.world = world

  @abc.abstractmethod
  def dry_run(self, items: Sequence[Item]) -> None:
    """Prints what `run` would do, and does nothing."""

  @abc.abstractmethod
  def run(self, job: "Job") -> None:
    """Settles the pending items of a job: `job.settle` with an answer,
    `job.lose` where there can be none. What is not settled is left for the
    next run.

    Raises:
      UserError: the run cannot continue; settled items are kept.
    """

  def check(
    self,
    item: Item,
    rejected: Sequence[str],
    edits: list[dict],
    chosen: Sequence[str] | None = None,
  ) -> gates.Refused | None:
    """The gate that an item's wrong answers do not pass, None: accepted.

    Args:
      chosen: the right answers, where they are not the item's own.
    """
    # a chosen answer that is not the item's own is checked as well
    if chosen is not None:
      refused = gates.check_texts(rejected, chosen, limits(self.args))
      if refused:
        return refused
    return gates.check(
      item.answers if chosen is None else chosen,
      rejected,
      edits,
      limits(self.args),
      self.world.lexicon,
      self.world.annotations.objects.get(item.image),
    )

  def pairs(self, item: Item, event: Mapping[str, Any]) -> list[Sample]:
    """The pairs of an accepted item.

    Args:
      item: the sample and its place among several pairs of it.
      event: what `job.settle` was given: `rejected`, `edits`, `chosen` where
        the right answers are not the item's own, other facts.
    """
    sample = item.sample
    chosen, turns = list(sample.turns), list(sample.turns)
    chosen[1::2] = event.get("chosen", item.answers)
    turns[1::2] = event["rejected"]
    name = sample.id + (f"-v{item.variant}" if item.variant else "")
    extra = sample.extra | {
      "injector": self.label,
      "category": item.category,
      "edits": event["edits"],
    }
    return [
      dataclasses.replace(
        sample,
        id=name,
        turns=tuple(chosen),
        rejected=tuple(turns),
        extra=extra,
      )
    ]


def limits(args: argparse.Namespace) -> gates.Limits:
  """The bounds of the quality gates that the flags set."""
  return gates.Limits(args.min_length, args.max_length, args.min_similarity)
