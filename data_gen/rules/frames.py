"""What is said around a noun, and whether another noun fits in there.

A noun's frame is the content words close to it: the verb that it does or
suffers, its parts, its purpose. Another noun fits where the corpus says those
words of it, or of several of its kind, or of everything. Words that only tell
where a thing is fit every noun.
"""

import collections
import functools
import re
from collections.abc import Iterable, Iterator, Sequence

from data_gen.rules.lexicon import WORD, Mention, Noun, vocabulary

# Words of the frame before and after the noun.
_BEFORE, _AFTER = 3, 6
# Kinds of things that have the word said of them before it fits all kinds.
_SPREAD = 6
_BREAK = re.compile(r"[.,;:!?\n()]")
# After a noun a conjunction begins what somebody else does.
_NEXT_CLAUSE = re.compile(r"[.,;:!?\n()]|\b(?:and|while|but|or|as)\b")
# "..., which seems to be the destination": all of it is about the noun.
_RELATIVE = re.compile(r",? (?:which|that|who|where)\b[^.;]*")
_ENDING = re.compile(r"(?:'s|ies|ing|ed|es|s)$")


@functools.cache
def stem(word: str) -> str:
  """The word without its ending: "parked", "parks" -> "park"."""
  word = word.lower()
  bare = _ENDING.sub("", word)
  if len(bare) > 3 and bare[-1] == bare[-2] and bare[-1] not in "ls":
    bare = bare[:-1]  # "running" -> "run"
  return bare.rstrip("e") if len(bare) > 2 else word


@functools.cache
def _stems(name: str) -> frozenset[str]:
  return frozenset(map(stem, vocabulary()[name].split()))


@functools.cache
def _of_groups() -> dict[str, frozenset[str]]:
  """Group -> stems of the words that fit whatever is of it."""
  table: dict[str, set[str]] = collections.defaultdict(set)
  for groups, words in vocabulary()["frames_of"].items():
    for group in groups.split():
      table[group] |= set(map(stem, words.split()))
  return {group: frozenset(words) for group, words in table.items()}


def _content(words: Iterable[str]) -> Iterator[str]:
  small = _stems("neutral")
  for word in words:
    base = stem(word)
    if base not in small and not word.isdecimal() and not word.endswith("ly"):
      yield base


def frame(
  text: str, mention: Mention, mentions: Sequence[Mention]
) -> list[str]:
  """Stems of the content words around a mention, up to the next noun that we
  know or the next punctuation mark."""
  others = [m for m in mentions if m.start != mention.start]
  left = max((m.end for m in others if m.end <= mention.start), default=0)
  right = min(
    (m.start for m in others if m.start >= mention.end), default=len(text)
  )
  before = _BREAK.split(text[left : mention.start])[-1]
  after = _NEXT_CLAUSE.split(text[mention.end : right])[0]
  relative = _RELATIVE.match(text, mention.end)
  words = [m.group() for m in WORD.finditer(before)][-_BEFORE:]
  words += [m.group() for m in WORD.finditer(after)][:_AFTER]
  if relative:
    words += [m.group() for m in WORD.finditer(relative.group())]
  return list(_content(words))


def content(text: str, mentions: Sequence[Mention], start: int) -> list[str]:
  """Stems of all content words of a stretch of text, known nouns left out.

  Args:
    start: where the stretch begins in the text of the mentions.
  """
  spans = [(m.start - start, m.end - start) for m in mentions]
  words = [
    m.group()
    for m in WORD.finditer(text)
    if not any(a <= m.start() < b for a, b in spans)
  ]
  return list(_content(words))


class Frames:
  """Which words the corpus says of which nouns."""

  def __init__(self) -> None:
    self._said: dict[str, collections.Counter] = collections.defaultdict(
      collections.Counter
    )

  def learn(self, text: str, mentions: Sequence[Mention]) -> None:
    for mention in mentions:
      if mention.head:
        for word in frame(text, mention, mentions):
          self._said[word][mention.noun.category, mention.noun.group] += 1

  def fits(self, word: str, new: Noun, old: Noun) -> bool:
    """Whether a word of the old noun's frame can be said of the new one."""
    if new.group == old.group and word in _of_groups().get(new.group, ()):
      return True
    said = self._said.get(word, {})
    if any(category == new.category for category, _ in said):
      return True
    alike = {c for c, g in said if g == new.group and c != old.category}
    return len(alike) > 1 or len({group for _, group in said}) >= _SPREAD


@functools.cache
def traces(name: str) -> frozenset[str]:
  """Stems of words that give a thing away (its parts, its use)."""
  return frozenset(map(stem, vocabulary()["traces"].get(name, "").split()))
