"""Wrong positions and relations between things, where a sentence allows one.

Two kinds. A side of the picture (left, top, background) becomes the other one,
everywhere in the answer at once: a mirrored description agrees with itself. A
position beside a thing (in front of, on, next to) becomes another one that the
thing has, where the sentence states nothing but the position.
"""

import functools
import random
import re
from collections.abc import Iterator

from data_gen.rules.changes import Proposal, swap
from data_gen.rules.coherence import argued
from data_gen.rules.lexicon import Mention, vocabulary
from data_gen.rules.scene import Scene

# Pairs of opposite sides; phrases around them make clear that a side is meant.
_MIRRORS = (("left", "right"), ("foreground", "background"))
_SIDE = re.compile(
  r"(?:\b(?:on|to|at|in|near|toward|towards) (?:the|its|his|her|their)"
  r"(?: (?:far|upper|lower|top|bottom|immediate))?[ -]"
  r"|\b(?:far|upper|lower|top|bottom)[ -])(left|right|foreground|background)\b"
  r"(?!\s+(?:away|now|hand of|arm|leg|foot|eye|ear))"
  r"|\b(left|right)(?=[ -](?:side|edge|corner|part|portion|half|hand side)\b)",
  re.I,
)
# A word that is about something else than a side, or about hands and arms.
_OTHER_SENSE = re.compile(
  r"\b(left|right) (?:hand|arm|leg|foot|eye|ear|away|now|turn|next|behind"
  r"|over)\b"
  r"|\b(?:has|have|had|is|are|was|were|been|be) left\b|\b(?:all|just) right\b"
  r"|\bleft (?:the|a|his|her|their|it)\b|\bturn(?:s|ing)? (?:left|right)\b",
  re.I,
)
_IN_PICTURE = re.compile(
  r"\b(?:in|at|near|towards?) the (middle|center|centre)"
  r"(?= of the (?:image|picture|photo|photograph|scene|frame)\b)",
  re.I,
)
# Before a position: where something is, and no more than that.
_IS_PLACED = re.compile(
  r"\b(is|are|sits?|stands?|located|situated|positioned|placed|visible|seen"
  r"|parked|sitting|standing|laid|there|present|found|rests?|resting|lying)"
  r"(?: (?:right|just|directly|also|together|alone|nearby|there))?\s+$",
  re.I,
)
# A thing's own posture does not go with every place.
_ON_TOP = frozenset("table furniture storage decor container appliance".split())
_PLACED_BY = frozenset(
  """furniture table storage decor container appliance screen road cycle rail
  water air street park_seat plant building shade figure bag tableware platter
  person pet livestock wild statue gadget bath basin""".split()
)
_BY_THING = re.compile(
  r"\s+(?:the|an?|another|one)\s+(?:[\w-]+\s+){0,3}$", re.I
)


@functools.cache
def _table() -> dict[str, tuple[str, ...]]:
  rows = (row.split(">") for row in vocabulary()["relations"].split("; "))
  return {old: tuple(new.split("/")) for old, new in rows}


@functools.cache
def _pattern() -> re.Pattern[str]:
  phrases = sorted(_table(), key=len, reverse=True)
  return re.compile(rf"\b({'|'.join(phrases)})\b", re.I)


def relations(scene: Scene, rng: random.Random) -> Iterator[Proposal]:
  """Every place where a relation can be turned into another."""
  yield from _mirrored(scene.text)
  yield from _off_the_middle(scene, rng)
  for match in _pattern().finditer(scene.text):
    if argued(scene.text, match.start()):
      continue
    thing = _thing(scene, match.end())
    if thing is None or not _IS_PLACED.search(scene.text[: match.start()]):
      continue
    options = [
      new
      for new in _table()[match.group().lower()]
      if new not in ("on top of", "under") or thing.noun.group in _ON_TOP
    ]
    if options:
      new = rng.choice(options)
      yield (swap(*match.span(), new, "relation", scene.text),)


def _thing(scene: Scene, end: int) -> Mention | None:
  """The one thing that a position refers to: it is named right after the
  position and in no other clause of the sentence."""
  found = next((m for m in scene.mentions if m.start > end), None)
  if found is None or found.plural or not found.head:
    return None
  if not _BY_THING.match(scene.text[end : found.start]):
    return None
  return found if found.noun.group in _PLACED_BY else None


def _mirrored(text: str) -> Iterator[Proposal]:
  """All left things to the right and the other way round."""
  for one, other in _MIRRORS:
    swaps = {one: other, other: one}
    word = re.compile(rf"\b({one}|{other})\b", re.I)
    sides = {
      match.start(number): match.span(number)
      for match in _SIDE.finditer(text)
      for number in (1, 2)
      if match.group(number) and match.group(number).lower() in swaps
    }
    if not sides or _OTHER_SENSE.search(text):
      continue
    if len(sides) != len(word.findall(text)):
      continue  # a side that would stay as it is
    if any(argued(text, start) for start in sides):
      continue
    yield tuple(
      swap(*span, swaps[text[slice(*span)].lower()], "relation", text)
      for span in sides.values()
    )


def _off_the_middle(scene: Scene, rng: random.Random) -> Iterator[Proposal]:
  """Something in the middle of the picture is moved to a side."""
  text = scene.text
  if re.search(r"\b(left|right|main|focus|central)\b", text, re.I):
    return
  found = list(_IN_PICTURE.finditer(text))
  if len(found) == 1 and not argued(text, found[0].start()):
    side = rng.choice(("left", "right"))
    yield (swap(*found[0].span(), f"on the {side} side", "relation", text),)
