"""Which of its senses a word has where it stands: "an orange" or an orange
shirt, "glasses" of wine or of a reader, a "watch" or one who watches.

Without a tagger the neighbours decide; where they do not, the word is taken for
something that no edit touches: a missed place costs nothing, nonsense a pair.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_DETERMINERS = frozenset(
  """a an the this that these those his her its their my your our one two three
  four five six several some many each every another both all no""".split()
)
_SUBJECTS = frozenset("he she they it who we you i".split())
_PREPOSITIONS = frozenset(
  "of in on at by with for from to into onto over under near and or as".split()
)
# In the singular or the plural also forms of verbs.
_VERBS = frozenset(
  """watch tie dress suit tower rose box rock plant house store bridge train
  ship fish duck cap shower book map flag clock pan bowl mirror park""".split()
)
# Without an article these are games.
_GAMES = frozenset("baseball football basketball volleyball".split())
# "a piece of chicken" is no bird.
_EATEN = frozenset("chicken duck goose fish crab turtle lamb".split())
_COOKED = frozenset(
  "grilled fried roasted roast baked cooked smoked breaded raw".split()
)
_SHADES = frozenset("bright dark light deep pale burnt vivid color".split())
_WEARS = frozenset(
  "wear wears wearing wore his her their eye reading prescription".split()
)
_HOLD_DRINKS = frozenset("of filled full containing half".split())
_DRINKS = frozenset(
  """wine drinking water beer champagne juice cocktail shot empty tall two three
  four five six several""".split()
)
_SAME_PLURAL = frozenset("sheep deer fish".split())
_ONE = frozenset("a an one this that another each every".split())
_MANY = frozenset(
  """two three four five six seven eight nine ten several some many few these
  those both all various multiple numerous""".split()
)
_IS, _ARE = frozenset("is was has".split()), frozenset("are were have".split())


@dataclass(frozen=True)
class Place:
  """The neighbours of a word.

  Attributes:
    before: words before it in the same clause, the nearest first.
    after: the next word, "" across punctuation or at the end.
    beside: the words around it, whatever is between; lower case all.
    next_but_one: the word after `after`.
  """

  before: Sequence[str]
  after: str
  beside: Sequence[str] = ()
  next_but_one: str = ""

  @property
  def phrase(self) -> list[str]:
    """Words before it that belong to the same noun phrase, perhaps."""
    words = []
    for word in self.before[:3]:
      if word in _PREPOSITIONS:
        break
      words.append(word)
    return words

  @property
  def determined(self) -> bool:
    return any(word in _DETERMINERS for word in self.phrase)


def is_thing(name: str, many: bool, place: Place) -> bool:
  """Whether a noun of ours is one here, and no verb and no game."""
  first = place.before[0] if place.before else ""
  if first in _SUBJECTS or (first == "to" and not many):
    return False
  if name in _GAMES and not many:
    return place.determined
  if name in _EATEN and not many:
    served = any(word in _COOKED for word in place.phrase)
    return (place.determined or not place.before) and not served
  if name not in _VERBS:
    return True
  # "watches the game", "watches attentively", "tower over the town"
  object_follows = place.after in _DETERMINERS or place.after.endswith("ly")
  looms = name == "tower" and place.after == "over"
  return not (object_follows or looms or (name == "rose" and not place.phrase))


def is_colored(name: str, place: Place, colors: Sequence[str]) -> bool:
  """Whether "orange" is a colour here."""
  if any(word in colors and word != name for word in place.beside):
    return True
  if place.after in ("and", "or") and place.next_but_one in colors:
    return True
  if not place.before and not place.after:
    return False  # the whole of an answer, or one of a list
  near = place.phrase[:2]
  shaded = any(word in _SHADES for word in near)
  return shaded or not any(word in _DETERMINERS for word in near)


def glasses(place: Place) -> Literal["worn", "vessel"] | None:
  """The sense of "glasses"; None: not decidable."""
  if place.after in _HOLD_DRINKS or _DRINKS.intersection(place.before[:1]):
    return "vessel"
  pair = re.search(r"\bof pair\b", " ".join(place.before[:4]))
  return "worn" if pair or _WEARS.intersection(place.before[:3]) else None


def same_in_plural(name: str) -> bool:
  return name in _SAME_PLURAL


def is_many(place: Place) -> bool | None:
  """Whether "sheep" is a plural; None: not decidable."""
  for word in place.phrase:
    if word in _ONE:
      return False
    if word in _MANY or word.isdecimal():
      return True
  if place.before[len(place.phrase) :][:1] == ["of"]:  # "a herd of sheep"
    return True
  if place.after in _IS:
    return False
  return True if place.after in _ARE else None
