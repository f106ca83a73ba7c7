"""Wrong positions and relations between objects."""

import functools
import random
import re
from collections.abc import Iterator

from data_gen.rules.changes import Proposal, swap
from data_gen.rules.lexicon import vocabulary

# These mean a place only before a noun phrase: "under the table", but not
# "under construction"; "near a tree", but not "the near future".
_PLAIN = frozenset(
  """near under below above inside outside behind beside beneath underneath
  along""".split()
)
_DETERMINER = re.compile(
  r"\s+(the|an?|his|her|its|their|it|him|them|two|three|four|several|each"
  r"|some|another|one)\b",
  re.I,
)
_SIDE_FOLLOWS = re.compile(
  r"[\s-]+(left|right|side|part|corner|portion|half|edge|hand|shelf|level)"
)
_RISES = re.compile(
  r"\b(ris(es|ing)|towers?|towering|high|soar\w*|fl(ies|y|ying|ew)|hang(s|ing)?"
  r"|hover\w*) $",
  re.I,
)
# "parked along the side of the road", but not across it.
_LENGTHWISE = re.compile(
  r" (the|each|both|its) (\w+ )?(sides?|edges?|length)\b"
)
# Nothing stands on top of a sky.
_SKY = re.compile(
  r" (the|an?) ([\w-]+,? ){0,3}(sky|skies|sun|sunlight|moon|stars)\b"
)
# "in the middle of a game" is no place.
_OF_PLACE = re.compile(
  r" of (the|an?|this) ([\w-]+ ){0,2}(image|picture|photo|photograph|scene"
  r"|frame|room|table|road|street|field|plate|bed|court|yard|park|kitchen|shelf)\b",
  re.I,
)
_NEVER_FOLLOWS = re.compile(r"\s+(left|right|away|now|of the (?:night|day))\b")


@functools.cache
def _table() -> dict[str, tuple[str, ...]]:
  rows = (row.split(">") for row in vocabulary()["relations"].split("; "))
  return {old: tuple(new.split("/")) for old, new in rows}


@functools.cache
def _pattern() -> re.Pattern[str]:
  phrases = sorted(_table(), key=len, reverse=True)
  return re.compile(rf"\b({'|'.join(phrases)})\b", re.I)


def relations(text: str, rng: random.Random) -> Iterator[Proposal]:
  """Every place where a relation can be turned into another."""
  for match in _pattern().finditer(text):
    old = match.group().lower()
    if old in ("above", "below") and _RISES.search(text[: match.start()]):
      continue  # a tower does not rise below the city
    if _usable(old, text[match.end() :]):
      new = rng.choice(_table()[old])
      yield (swap(*match.span(), new, "relation", text),)


def _usable(old: str, rest: str) -> bool:
  if old in _PLAIN:
    lengthwise = old == "along" and _LENGTHWISE.match(rest)
    if lengthwise or (
      old.startswith(("under", "below", "bene")) and _SKY.match(rest)
    ):
      return False
    return bool(_DETERMINER.match(rest))
  if old.startswith("in the") and old.endswith(("middle", "center", "centre")):
    return not rest.startswith(" of ") or bool(_OF_PLACE.match(rest))
  if old in ("upper", "lower"):
    return bool(_SIDE_FOLLOWS.match(rest))
  if old.endswith(("top", "bottom")):  # "in the top" [left corner]
    return True
  return not _NEVER_FOLLOWS.match(rest)
