"""Wrong colours, sizes, states, materials and numbers."""

import functools
import random
import re
from collections.abc import Iterator

from data_gen.rules.changes import Change, Proposal, pick, swap
from data_gen.rules.coherence import argued, everywhere, sentence_at
from data_gen.rules.corpus import Corpus
from data_gen.rules.english import number_word
from data_gen.rules.lexicon import WORD, Mention, Noun, vocabulary
from data_gen.rules.scene import Scene

_NUMBERS = {number_word(n): n for n in range(2, 13)} | {
  word: n
  for word, n in zip("twenty thirty fifty".split(), (20, 30, 50), strict=True)
}
_COUNTED_ON = re.compile(
  r"\b(both|the other|another|others|former|latter|first|second|third|each"
  r"|either|neither|pair|respectively|total"
  r"|one (?:of|is|are|person|on|in|near))\b",
  re.I,
)
_BLACK_AND_WHITE = re.compile(r"\bblack[ -]and[ -]white\b", re.I)
_SHADES = frozenset("light dark bright pale deep vivid vibrant".split())
# Of people and animals; an apple that sits on a table does not stand there.
_POSTURES = frozenset("sitting standing seated sits stands lying".split())
_ANIMATE = frozenset("person pet livestock wild bird breed".split())
_SEATS = frozenset("furniture park_seat board cycle storage table".split())
_ANY_POSTURE = re.compile(
  r"\b(sit|sits|sitting|seated|stand|stands|standing|lie|lies|lying|walk\w*"
  r"|run|runs|running|rid(?:e|es|ing)|kneel\w*|crouch\w*|asleep|sleep\w*)\b",
  re.I,
)
_NOUNS_TOO = frozenset(
  "glass square baseball football basketball volleyball".split()
)
# "orange juice" has its name from the fruit.
_OF_FRUIT = frozenset("juice slice slices peel peels zest".split())
_NO_COUNT = frozenset("the of at to between".split())
_NATURAL = frozenset(
  """fruit vegetable dish sweet plant blossom pet livestock wild bird sea mass
  person terrain inland_water in_sky outdoors room breed""".split()
)
_IS = re.compile(r"\s+(?:is|are|was|were|looks?|appears?)\s+(?:\w+ly\s+)?$")
_TIME = re.compile(r"\b(1[0-2]|[1-9]):([0-5]\d)\b")


@functools.cache
def _swaps() -> dict[str, tuple[str, ...]]:
  table = {}
  for entries in vocabulary()["swaps"].values():
    for entry in entries.split("; "):
      names, new = entry.split(">")
      table |= {name: tuple(new.split("/")) for name in names.split("/")}
  return table


@functools.cache
def _swap_pattern() -> re.Pattern[str]:
  words = sorted(_swaps(), key=len, reverse=True)
  return re.compile(rf"\b({'|'.join(words)})\b(?!-)", re.I)


def attributes(
  corpus: Corpus, scene: Scene, rng: random.Random
) -> list[Proposal]:
  """All attribute changes of the answer, each at all of its mentions."""
  single = [
    *_colors(corpus, scene, rng),
    *_simple(scene, rng),
    *_numbers(scene, rng),
    *_times(scene, rng),
  ]
  found: dict[Proposal, None] = {}
  for (change,) in single:
    if not argued(scene.text, change.start):
      changed = everywhere(scene, change)
      if changed and not any(argued(scene.text, c.start) for c in changed):
        found[changed] = None
  return [*found, *_people(scene, rng)]


def _around(text: str, start: int, end: int) -> tuple[str, str]:
  """The words before and after, "" across punctuation."""
  before = re.search(r"([\w'-]+)\s+$", text[:start])
  after = re.match(r"\s+([\w'-]+)", text[end:])
  return (
    before.group(1).lower() if before else "",
    after.group(1).lower() if after else "",
  )


def _simple(scene: Scene, rng: random.Random) -> Iterator[Proposal]:
  text = scene.text
  for match in _swap_pattern().finditer(text):
    word = match.group().lower()
    if text[match.start() - 1 :][:1] == "-":
      continue
    before, after = _around(text, match.start(), match.end())
    if not _fits(word, before, after):
      continue
    noun = _noun_after(scene, match.end())
    if word in _POSTURES:
      if not _free_posture(scene, match):
        continue
    elif noun is None:
      continue  # of a thing that we do not know nothing is known either
    if word in _NOUNS_TOO and _is_noun(scene, match, after):
      continue
    new = rng.choice(_swaps()[word])
    if new == "wooden" and before in ("of", "from", "with"):
      new = "wood"
    yield (swap(*match.span(), new, "attribute", text),)


def _fits(word: str, before: str, after: str) -> bool:
  """Whether the neighbours leave a word its plain sense."""
  if before == "or":
    return False  # "dimly lit or dark": the other word still says it
  if word == "busy" and after.endswith("ing"):
    return False  # "busy preparing a meal"
  data = vocabulary()
  not_before, not_after = data["not_before"], data["not_after"]
  only_before, only_after = data["only_before"], data["only_after"]
  return not (
    before in not_after.get(word, "").split()
    or after in not_before.get(word, "").split()
    or (word in only_before and after not in only_before[word].split())
    or (word in only_after and before not in only_after[word].split())
  )


def _is_noun(scene: Scene, match: re.Match, after: str) -> bool:
  """Whether "glass" is a thing and no material, "baseball" no game."""
  found = any(m.start == match.start() and m.head for m in scene.mentions)
  return found or not (after or match.group().lower() != "square")


def _free_posture(scene: Scene, match: re.Match) -> bool:
  """Whether somebody could as well have the other posture: the last noun
  before is a person or an animal, it is the only posture of the answer, and
  nothing to sit or lie on is near."""
  start, sentence = sentence_at(scene.text, match.start())
  end = start + len(sentence)
  before = [m for m in scene.mentions if start <= m.start < match.start()]
  after = [m for m in scene.mentions if match.end() <= m.start < end]
  if not before or before[-1].noun.group not in _ANIMATE:
    return False
  if any(m.noun.group in _SEATS for m in after):
    return False
  return len(_ANY_POSTURE.findall(scene.text)) == 1


def _colors(
  corpus: Corpus, scene: Scene, rng: random.Random
) -> Iterator[Proposal]:
  names = vocabulary()["colors"].split()
  pattern = re.compile(rf"\b({'|'.join(names)})\b(?!-)", re.I)
  for match in pattern.finditer(scene.text):
    before, after = _around(scene.text, *match.span())
    if _BLACK_AND_WHITE.search(
      scene.text, match.start() - 10, match.end() + 10
    ):
      continue  # a kind of photograph
    if after in _OF_FRUIT or _is_fruit(match, scene):
      continue
    if not _may_be_colored(corpus, scene, match):
      continue
    options = _other_colors(corpus, scene, match, before in _SHADES)
    said = set(re.findall(r"[a-z]+", scene.text.lower()))
    options = [c for c in options if c not in said]
    if not options:
      continue
    noun = _described(scene, match.end())
    seen = [corpus.colors[noun, c] + 0.3 for c in options]
    new = pick(rng, options, seen)
    yield (swap(*match.span(), new, "attribute", scene.text),)


def _may_be_colored(corpus: Corpus, scene: Scene, match: re.Match) -> bool:
  """Whether any colour is possible (a thing that people make), or which ones
  are is known."""
  noun = _noun_after(scene, match.end())
  _, word = _around(scene.text, *match.span())
  special = vocabulary()["colors_of"]
  if word in special or word.removesuffix("s") in special:
    return True
  noun = noun or _subject_before(scene, match.start())
  if noun is None or noun.name == "stop sign":
    return False
  made = noun.group not in _NATURAL
  seen = sum(1 for name, _ in corpus.colors if name == noun.category)
  return made or noun.category in special or seen > 1


def _is_fruit(match: re.Match, scene: Scene) -> bool:
  """ "orange" as a noun: nothing that it could colour follows."""
  return any(
    m.start == match.start() and (m.head or m.plural) for m in scene.mentions
  )


def _noun_after(scene: Scene, end: int) -> Noun | None:
  """The noun right after an adjective, if it is one we know."""
  after = (m for m in scene.mentions if 0 < m.start - end <= 14)
  return next((m.noun for m in after), None)


def _subject_before(scene: Scene, start: int) -> Noun | None:
  """What is said to be of a colour: "her dress is orange"."""
  verb = _IS.search(scene.text[:start])
  if not verb:
    return None
  before = [m for m in scene.mentions if m.end == verb.start()]
  return before[0].noun if before else None


def _described(scene: Scene, end: int) -> str:
  """The category of that noun, "" if there is none."""
  noun = _noun_after(scene, end)
  return noun.category if noun else ""


def _other_colors(
  corpus: Corpus, scene: Scene, match: re.Match, shaded: bool
) -> list[str]:
  data = vocabulary()
  noun = _described(scene, match.end())
  _, word = _around(scene.text, *match.span())
  special = data["colors_of"]
  names = (noun, word, word.removesuffix("s"), word.removesuffix("es"))
  known = next((special[name] for name in names if name in special), None)
  common = f"{data['chromatic']} black white gray"
  options = (known or common).split()
  # A corpus of few colours, such as the toy's, is kept to them.
  seen = {color for _, color in corpus.colors}
  if len(seen) >= 4:
    options = [c for c in options if c in seen] or sorted(seen)
  if shaded:
    options = [c for c in options if c in data["chromatic"].split()]
  old = match.group().lower()
  same = {"gray": "grey", "grey": "gray"}.get(old, old)
  return [color for color in options if color not in (old, same)]


def _numbers(scene: Scene, rng: random.Random) -> Iterator[Proposal]:
  if _COUNTED_ON.search(scene.text):
    return  # "two bicycles ... the other one": a third would not add up
  for match in WORD.finditer(scene.text):
    word = match.group().lower()
    before, after = _around(scene.text, *match.span())
    digits = len(word) <= 2 and word.isdecimal() and int(word) >= 2
    if not (digits or word in _NUMBERS) or before in _NO_COUNT:
      continue
    # A count has its plural noun close behind: "two large brown dogs".
    if not _counts(scene.mentions, match.end()):
      continue
    old = int(word) if digits else _NUMBERS[word]
    new = rng.choice([n for n in (old + 1, old + 2, old - 1) if n >= 2])
    text = str(new) if digits else number_word(new)
    yield (swap(*match.span(), text, "attribute", scene.text),)


def _times(scene: Scene, rng: random.Random) -> Iterator[Proposal]:
  """Another hour of the clock."""
  for match in _TIME.finditer(scene.text):
    hour = int(match.group(1))
    new = rng.choice([h for h in range(1, 13) if h != hour])
    yield (swap(*match.span(1), str(new), "attribute", scene.text),)


def _counts(mentions: tuple[Mention, ...], end: int) -> bool:
  return any(m.plural and 0 < m.start - end <= 20 for m in mentions) or any(
    m.noun.name == "person" and m.plural and 0 < m.start - end <= 20
    for m in mentions
  )


def _people(scene: Scene, rng: random.Random) -> Iterator[Proposal]:
  """A woman for a man, with his pronouns, where only one person appears."""
  data = vocabulary()
  people = [m for m in scene.mentions if m.noun.group == "person"]
  names = {m.noun.name for m in people}
  if len(names) != 1 or any(m.plural or not m.head for m in people):
    return
  name = names.pop()
  if name not in data["people"] or name in scene.question.lower():
    return
  told = set(re.findall(r"\w+", scene.text.lower()))
  if told & set(data["gendered"].split()):
    return  # a beard, a husband: they would stay
  if any(argued(scene.text, m.start) for m in people):
    return
  new = rng.choice(data["people"][name].split())
  renames = [swap(m.start, m.end, new, "attribute", scene.text) for m in people]
  pronouns = _pronouns(scene.text, name, new)
  if pronouns is not None:
    yield (*renames, *pronouns)


def _pronouns(text: str, old: str, new: str) -> list[Change] | None:
  """The pronoun changes a new person asks for; None: better left alone."""
  data = vocabulary()
  male, female = data["male"].split(), data["female"].split()
  if (old in male) == (new in male) and (old in female) == (new in female):
    return []
  found = list(
    re.finditer(r"\b(he|his|him|himself|she|hers?|herself)\b", text, re.I)
  )
  if not found:
    return []
  if old not in male or new not in female:
    return None  # "her" may be "his" or "him": no way to tell without a parser
  table = {"he": "she", "his": "her", "him": "her", "himself": "herself"}
  if any(m.group().lower() not in table for m in found):
    return None
  return [
    swap(*m.span(), table[m.group().lower()], "attribute", text) for m in found
  ]
