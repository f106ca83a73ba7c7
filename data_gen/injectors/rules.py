"""`--injector rules`: every item in this process, no network."""

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import Any

from data_gen.gates import Refused
from data_gen.injectors.base import Injector, World
from data_gen.items import REASONING, Annotations, Item, make_items
from data_gen.job import Job
from data_gen.rules.corpus import Answer, Corpus, learn
from data_gen.rules.injector import (
  VERSION,
  Settings,
  generator,
  inject,
  parse_edits,
)
from data_gen.rules.lexicon import Lexicon
from povid_jax import bounds


class Rules(Injector):
  """Likely objects from the corpus's own statistics, wrong attributes,
  numbers, positions and replies."""

  name = "rules"
  summary = (
    "no network: likely objects from the corpus's own statistics, wrong "
    "attributes, numbers, positions and replies"
  )
  whole_input = True

  def __init__(self, args: argparse.Namespace):
    super().__init__(args)
    self._rules = Settings(
      edits=parse_edits(args.edits),
      words_per_edit=args.words_per_edit,
      insert_above=args.insert_above,
      within=args.replace_within,
      closed=args.closed_vocabulary,
      seed=args.seed,
    )

  @staticmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    settings = Settings()
    edits = ",".join(f"{k}={v}" for k, v in settings.edits.items())
    add = parser.add_argument_group("--injector rules").add_argument
    add("--edits", default=edits, metavar="KIND=P,...", help=(
      "probability of each kind of edit in every --words-per-edit words; kinds "
      f"left out do not occur (default {edits})"
    ))  # fmt: skip
    add("--words-per-edit", type=bounds.whole(1),
        default=settings.words_per_edit,
        help="words per edit: longer answers get more edits")  # fmt: skip
    add("--insert-above", type=bounds.number(), default=settings.insert_above,
        metavar="P", help=(
          "insert only objects that are at least this likely beside the "
          "present ones, 0..1 (default %(default)s)"
        ))  # fmt: skip
    add("--replace-within", choices=("group", "any"), default=settings.within,
        help=(
          "group: an object is replaced by one of the same group (an animal "
          "by an animal); any: by any object that is likely beside the "
          "others, for plain lists"
        ))  # fmt: skip
    add("--closed-vocabulary", action="store_true",
        help="only words of the corpus (for a small tokenizer)")  # fmt: skip

  @property
  def label(self) -> str:
    return f"rules/{VERSION}"

  def settings(self) -> dict[str, Any]:
    corpus = self._corpus.fingerprint()
    return super().settings() | vars(self._rules) | {"corpus": corpus}

  def prepare(self, world: World) -> None:
    super().prepare(world)
    # Statistics come from every sample, so that --limit changes no pair.
    items = make_items(world.samples)
    self._corpus = learn_corpus(items, world.lexicon, world.annotations)

  def dry_run(self, items: Sequence[Item]) -> None:
    answers = sum(len(item.answers) for item in items)
    print(f"{len(items)} items, {answers} answers; this dry run writes nothing")
    for item in items[:3]:
      rejected, edits = rewrite(self._corpus, self._rules, item, 0)
      print(f"\nid {item.sample.id} ({item.category})")
      for old, new in zip(item.answers, rejected, strict=True):
        print(f"  correct: {old}\n  wrong:   {new}")
      print(f"  edits:   {json.dumps(edits, ensure_ascii=False)}")

  def run(self, job: Job) -> None:
    """Each item has its own random numbers, so the result does not depend on
    where an earlier run stopped."""
    for item in job.pending():
      attempt = job.journal.tries[item.key]
      finished = False
      while not finished:
        rejected, edits = rewrite(self._corpus, self._rules, item, attempt)
        nothing = None if edits else Refused("no_edit", _nothing(item))
        # If an answer has no place for an edit, another seed finds none either.
        finished = job.settle(
          item, rejected, edits, nothing, again=nothing is None
        )
        attempt += 1


def _nothing(item: Item) -> str:
  """Why an item without an edit has none."""
  if item.category == REASONING:
    return "no edit leads its reasoning to a wrong conclusion"
  return "no edit leaves an answer that agrees with itself and the question"


def learn_corpus(
  items: Iterable[Item], lexicon: Lexicon, annotations: Annotations
) -> Corpus:
  """Statistics of all answers of all items, annotated objects first."""
  answers = [
    Answer(item.image or item.key, question, answer)
    for item in items
    if not item.variant
    for question, answer in zip(item.questions, item.answers, strict=True)
  ]
  return learn(answers, lexicon, annotations.objects)


def rewrite(
  corpus: Corpus, settings: Settings, item: Item, attempt: int
) -> tuple[list[str], list[dict]]:
  """Wrong answers for one item, and their edits.

  Answers in which nothing can be changed stay as they are.
  """
  rejected, edits = [], []
  image = item.image or item.key
  for turn, (question, answer) in enumerate(
    zip(item.questions, item.answers, strict=True)
  ):
    rng = generator(settings, item.key, attempt, turn)
    reasons = item.category == REASONING
    found = inject(corpus, settings, rng, image, question, answer, reasons)
    rejected.append(found.text if found else answer)
    for edit in found.edits if found else ():
      edits.append(edit | ({"turn": turn} if len(item.answers) > 1 else {}))
  return rejected, edits
