"""AMBER's words: what a picture holds, and which nouns are hallucinated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from povid_jax.errors import UserError
from povid_jax.eval import needs
from povid_jax.eval.benchmarks.amber_nouns import Alike, exact

# safe_words.txt of the original, used when the file is not there
SAFE_WORDS = (
  *("orange", "snack", "line", "camera", "light", "shoe", "sign", "range"),
  "individual",
)


@dataclass(frozen=True)
class Lexicon:
  """AMBER's words: relation.json, and the words that are never wrong."""

  related: Mapping[str, Sequence[str]]
  vocabulary: frozenset[str]
  safe: frozenset[str]


def read_lexicon(data: Path) -> Lexicon:
  """Reads relation.json and, if it is there, safe_words.txt."""
  related = needs.read_json(data / "relation.json")
  lists = related.values() if isinstance(related, dict) else [None]
  if not all(isinstance(group, list) for group in lists):
    raise UserError(
      f"{data / 'relation.json'}: want an object of lists of words, as AMBER "
      "publishes it"
    )
  words = {*related, *(word for group in related.values() for word in group)}
  path = data / "safe_words.txt"
  safe = needs.read_text(path).split("\n") if path.exists() else SAFE_WORDS
  return Lexicon(related, frozenset(words), frozenset(filter(None, safe)))


@dataclass
class Slots:
  """Annotated objects of a picture, and which of them were named.

  `entries` are words and the object each stands for: the associations of every
  object, then the objects, in the order in which the original looks.
  """

  entries: list[tuple[str, int]]
  named: list[bool]

  def find(self, noun: str, alike: Alike = exact) -> bool:
    """Marks the first object that a noun fits; False if none does."""
    for word, index in self.entries:
      if alike(noun, word):
        self.named[index] = True
        return True
    return False


def slots(objects: Sequence[str], lexicon: Lexicon, own_first: bool) -> Slots:
  """See `Slots`; `own_first` looks at the objects before the associations."""
  names = [(word, index) for index, word in enumerate(objects)]
  others = [
    (word, index)
    for index, name in enumerate(objects)
    for word in lexicon.related.get(name, ())
  ]
  entries = names + others if own_first else others + names
  return Slots(entries, [False] * len(objects))


def judge(
  found: Sequence[str],
  truth: Slots,
  likely: Slots,
  lexicon: Lexicon,
  alike: Alike,
) -> list[str]:
  """The hallucinated ones of a description's nouns; marks what is named."""
  wrong = []
  for noun in found:
    if noun in lexicon.safe or truth.find(noun):
      continue
    likely.find(noun)
    likely.find(noun, alike)
    if not truth.find(noun, alike):
      wrong.append(noun)
  return wrong
