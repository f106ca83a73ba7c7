"""The `rules` engine: every item in this process, no network."""

from collections.abc import Iterable

from data_gen.gates import Refused
from data_gen.items import Annotations, Item
from data_gen.job import Job
from data_gen.rules.corpus import Answer, Corpus, learn
from data_gen.rules.injector import VERSION, Settings, generator, inject
from data_gen.rules.lexicon import Lexicon

INJECTOR = f"rules/{VERSION}"


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
    found = inject(corpus, settings, rng, image, question, answer)
    rejected.append(found.text if found else answer)
    for edit in found.edits if found else ():
      edits.append(edit | ({"turn": turn} if len(item.answers) > 1 else {}))
  return rejected, edits


def run(job: Job, corpus: Corpus, settings: Settings) -> None:
  """Works through all pending items; each has its own random numbers, so the
  result does not depend on where an earlier run stopped."""
  for item in job.pending():
    attempt = job.journal.tries[item.key]
    finished = False
    while not finished:
      rejected, edits = rewrite(corpus, settings, item, attempt)
      nothing = None if edits else Refused("no_edit", "no place for an edit")
      finished = job.settle(item, rejected, edits, nothing)
      if nothing and not finished:  # another seed finds no more places
        job.give_up(item, nothing.reason)
        finished = True
      attempt += 1
