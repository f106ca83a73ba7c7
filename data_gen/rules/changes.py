"""Edits of a text: disjoint changes that are applied together."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from data_gen.rules.english import article
from data_gen.rules.lexicon import match_case

T = TypeVar("T")
_ARTICLE_BEFORE = re.compile(r"\b(an?|An?)(\s+)$")


@dataclass(frozen=True)
class Change:
  """text[start:end] becomes `new`."""

  start: int
  end: int
  new: str
  kind: str


# Changes that belong together: all mentions of one object.
Proposal = tuple[Change, ...]


def swap(start: int, end: int, new: str, kind: str, text: str) -> Change:
  """A replacement that keeps the leading capital."""
  return Change(start, end, match_case(new, text[start:end]), kind)


def disjoint(proposal: Proposal, taken: Sequence[Change]) -> bool:
  """Whether a proposal can be added to the changes already taken.

  Touching counts as overlap: two neighbouring changes make one phrase that
  neither of them foresaw.
  """
  return all(
    change.end + 1 < other.start or other.end + 1 < change.start
    for change in proposal
    for other in taken
  )


def apply(text: str, changes: Sequence[Change]) -> tuple[str, list[dict]]:
  """The new text and its edits [{span, original, kind}] in reading order."""
  pieces, edits, position = [], [], 0
  for change in sorted(changes, key=lambda c: (c.start, c.end)):
    change = _with_article(text, change, position)
    pieces += [text[position : change.start], change.new]
    position = change.end
    original = text[change.start : change.end]
    edits.append(
      {
        "span": change.new.strip(),
        "original": original.strip(),
        "kind": change.kind,
      }
    )
  return "".join([*pieces, text[position:]]), edits


def _with_article(text: str, change: Change, position: int) -> Change:
  """Widens the change over "a"/"an" where the new word wants the other."""
  before = _ARTICLE_BEFORE.search(text[position : change.start])
  word = re.match(r"[\w-]+", change.new)
  if not before or not word:
    return change
  wanted = match_case(article(word.group()), before.group(1))
  if wanted == before.group(1):
    return change
  start = position + before.start()
  return replace(
    change, start=start, new=f"{wanted}{before.group(2)}{change.new}"
  )


def pick(
  rng: random.Random, options: Sequence[T], weights: Sequence[float]
) -> T:
  """One option by weight; uniform where all weights are zero."""
  if not any(weights):
    weights = [1.0] * len(options)
  return rng.choices(options, weights)[0]
