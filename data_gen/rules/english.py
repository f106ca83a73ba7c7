"""Plurals, articles and number words for the nouns of the vocabulary.

Small on purpose: `inflect` knows all of English, but takes more than two
seconds to import; a test compares the two on every noun that we use.
"""

import re

_IRREGULAR = {
  "man": "men",
  "woman": "women",
  "child": "children",
  "person": "people",
  "mouse": "mice",
  "goose": "geese",
  "foot": "feet",
  "tooth": "teeth",
  "knife": "knives",
  "loaf": "loaves",
  "leaf": "leaves",
  "shelf": "shelves",
  "scarf": "scarves",
  "wolf": "wolves",
  "calf": "calves",
  "bookshelf": "bookshelves",
  "sheep": "sheep",
  "deer": "deer",
  "fish": "fish",
  "cactus": "cacti",
  "taxi": "taxis",
  "ox": "oxen",
}
_O_TO_OES = frozenset(("tomato", "potato", "mango", "tornado", "hero"))
_ENDS = ("man", "woman", "child", "person", "fish")
# Written with a vowel and spoken with a consonant, and the other way round.
_SAYS_YOU = re.compile(
  r"(uni([^nm]|$)|use|usu|uter|ur[iu]|eu|ewe|one\b|once|ufo\b)"
)
_SILENT_H = re.compile(r"(hour|honest|honou?r|heir)")
_ONES = (
  """zero one two three four five six seven eight nine ten eleven twelve
  thirteen fourteen fifteen sixteen seventeen eighteen nineteen"""
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def plural(noun: str) -> str:
  """The plural of a noun: "teddy bear" -> "teddy bears"."""
  head, space, last = noun.rpartition(" ")
  return head + space + _plural_word(last)


def _plural_word(word: str) -> str:
  if word in _IRREGULAR:
    return _IRREGULAR[word]
  for end in _ENDS:  # "policeman", "starfish"
    if word.endswith(end) and word != "human":
      return word.removesuffix(end) + _IRREGULAR[end]
  if word in _O_TO_OES or re.search(r"(s|x|z|ch|sh)$", word):
    return word + "es"
  if re.search(r"[^aeiou]y$", word):
    return word[:-1] + "ies"
  return word + "s"


def article(word: str) -> str:
  """The indefinite article a word takes: "umbrella" -> "an"."""
  lower = word.lower()
  if lower.isdecimal():
    eight = lower.startswith("8") or lower in ("11", "18")
    return "an" if eight else "a"
  if _SAYS_YOU.match(lower):
    return "a"
  vowel = lower[:1] in tuple("aeiou")
  return "an" if vowel or _SILENT_H.match(lower) else "a"


def number_word(number: int) -> str:
  """0..99 in words; digits beyond."""
  if not 0 <= number <= 99:
    return str(number)
  if number < 20:
    return _ONES[number]
  tens, ones = divmod(number, 10)
  return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
