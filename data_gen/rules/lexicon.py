"""The nouns an edit may touch: categories, groups, plurals and articles."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_gen.rules import senses
from data_gen.rules.english import plural
from povid_jax import files

VOCABULARY = Path(__file__).parents[1] / "vocab.json"
WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*|\d+")
# The longest noun of the vocabulary, in words ("hot air balloon").
_LONGEST = 3

# What may follow the head of a noun phrase. Another noun must not ("dog bed"),
# and without a tagger the safe way to know is a list of small words.
_AFTER_HEAD = frozenset(
  """and or but nor with without on in at by near next to of from for while who
  that which is are was were has have had can could may might must will would
  sits sit stands stand lies lie rests rest appears appear seems seem as into
  onto over under above below behind beside between among around along across
  through inside outside underneath beneath against atop amidst towards toward
  there here nearby it its they he she also both all each either so than then
  because where when looks look looking adds add makes make shows show takes
  visible present also not just being hanging occupies occupy stretched far
  close closer adjacent surrounded does do did up down off out be comes goes
  features feature contains contain holds hold wears provides provide behind
  extends runs walks plays eats sleeps waits watches faces seen grows float
  graze grazes
  """.split()
)
_PARTICIPLE = re.compile(r".{2,}(ing|ed|ly)$")
_COUNT_WORDS = frozenset(
  """two three four five six seven eight nine ten eleven twelve dozen couple
  twenty thirty forty fifty hundred""".split()
)


@dataclass(frozen=True)
class Noun:
  """A category with its place in the vocabulary."""

  name: str
  group: str
  category: str
  plural_only: bool = False
  mass: bool = False


@dataclass(frozen=True)
class Mention:
  """One occurrence of a noun in a text: text[start:end]."""

  noun: Noun
  plural: bool
  start: int
  end: int
  # The phrase ends here: no other noun follows that it would qualify.
  head: bool
  # The word before it, lower case ("" at the start of the text).
  before: str

  @property
  def counted(self) -> bool:
    return self.before in _COUNT_WORDS or self.before.isdecimal()


def match_case(new: str, old: str) -> str:
  """Gives `new` the leading capital of `old`; "TV" is no such capital."""
  initial = old[:1].isupper() and not (len(old) > 1 and old.isupper())
  return new[:1].upper() + new[1:] if initial else new


@functools.cache
def vocabulary() -> dict:
  return files.load_json(VOCABULARY)


def _nouns() -> list[Noun]:
  data = vocabulary()
  only = {word.strip() for word in data["plural_only"].split(",")}
  nouns = []
  for group, entries in data["groups"].items():
    for entry in entries.split(", "):
      category, _, others = entry.partition("=")
      for name in (category, *filter(None, others.split("/"))):
        nouns.append(Noun(name, group, category.lower(), name in only))
  for name in data["mass"].split(", "):
    nouns.append(Noun(name, "mass", name, mass=True))
  return nouns


@functools.cache
def related(category: str) -> frozenset[str]:
  """Categories that are kinds of this one, or that it is a kind of: a house
  is a building, so neither is a wrong word for the other."""
  found = set()
  for name, kinds in vocabulary()["kinds_of"].items():
    names = {kind.replace("_", " ") for kind in kinds.split()}
    if category == name:
      found |= names
    elif category in names:
      found.add(name)
  return frozenset(found)


class Lexicon:
  """Finds the nouns of a text and says which could stand in their place."""

  def __init__(self, categories: Iterable[tuple[str, str]] = ()):
    """Adds (name, group) pairs, such as the categories of an annotation file,
    to the built-in vocabulary."""
    self._surface: dict[str, tuple[Noun, bool]] = {}
    self.by_category: dict[str, Noun] = {}
    for noun in _nouns():
      self._add(noun)
    for name, group in categories:
      if name.lower() not in self._surface:
        self._add(Noun(name, group, name.lower()))

  def _add(self, noun: Noun) -> None:
    name = noun.name.lower()
    if name == noun.category:
      self.by_category.setdefault(name, noun)
    self._surface.setdefault(name, (noun, noun.plural_only))
    if not (noun.mass or noun.plural_only):
      self._surface.setdefault(plural(noun.name).lower(), (noun, True))

  def knows(self, word: str) -> bool:
    """Whether it is one of our nouns, in either number."""
    return word.lower() in self._surface

  def category(self, name: str) -> str:
    """The category of a name ("sofa" -> "couch"); unknown names stay."""
    found = self._surface.get(name.lower())
    return found[0].category if found else name.lower()

  def find(self, text: str) -> list[Mention]:
    """Every known noun of the text, longest match first, left to right."""
    words = list(WORD.finditer(text))
    mentions, i = [], 0
    while i < len(words):
      for size in range(min(_LONGEST, len(words) - i), 0, -1):
        start, end = words[i].start(), words[i + size - 1].end()
        found = self._surface.get(text[start:end].lower())
        if found:
          noun, many = found
          mention = self._mention(text, words, i, size, noun, many)
          # "an orange cup" mentions no fruit.
          if mention.head or mention.plural or not _is_color(noun.name):
            mentions.append(mention)
          i += size
          break
      else:
        i += 1
    return mentions

  def _mention(
    self, text: str, words: list, i: int, size: int, noun: Noun, many: bool
  ) -> Mention:
    start, end = words[i].start(), words[i + size - 1].end()
    place = _place(text, words, i, size)
    before, after = (*place.before, "")[0], place.after
    head = (
      not after or after in _AFTER_HEAD or bool(_PARTICIPLE.match(after))
    ) and text[end : end + 1] != "-"
    # "dog bed": the bed is a kind of bed, not any piece of furniture.
    compound = before in self._surface and not _is_color(before)
    head = head and not compound and text[start - 1 :][:1] != "-"
    head = head and senses.is_thing(noun.name, many, place)
    if text[start:end].lower() == "glasses":
      sense = senses.glasses(place)
      head = head and sense is not None
      if sense == "worn":
        noun = self.by_category["glasses"]
    if senses.same_in_plural(noun.name):
      number = senses.is_many(place)
      head, many = head and number is not None, bool(number)
    if _is_color(noun.name) and not many:  # "an orange cup": no fruit
      head = head and not senses.is_colored(noun.name, place, _colors())
    return Mention(noun, many, start, end, head, before)

  def categories(self, text: str) -> set[str]:
    """The categories a text mentions, nouns without plural included."""
    return {mention.noun.category for mention in self.find(text)}


@functools.cache
def _colors() -> tuple[str, ...]:
  return tuple(vocabulary()["colors"].split())


def _is_color(word: str) -> bool:
  return word in _colors()


def _place(text: str, words: list, i: int, size: int) -> senses.Place:
  """The neighbours of words[i : i + size]."""
  before: list[str] = []
  while len(before) < 4 and (word := _neighbour(text, words, i, -1)):
    before.append(word)
    i -= 1
  i += len(before)
  last = i + size - 1
  beside = words[max(0, i - 1) : i] + words[last + 1 : last + 2]
  after = _neighbour(text, words, last, 1)
  return senses.Place(
    before,
    after,
    [word.group().lower() for word in beside],
    _neighbour(text, words, last + 1, 1) if after else "",
  )


def _neighbour(text: str, words: list, i: int, step: int) -> str:
  """The next (previous) word, or "" across punctuation or the text's end."""
  if not 0 <= i + step < len(words):
    return ""
  first, second = sorted((words[i], words[i + step]), key=lambda w: w.start())
  between = text[first.end() : second.start()]
  return "" if between.strip() else words[i + step].group().lower()
