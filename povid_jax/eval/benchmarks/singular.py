"""Singulars of English words, as pattern.en finds them and as inflect does.

`as_pattern` follows pattern.en 3.6, mistakes included ("bus" is "bu", "ties" is
"ty"), since CHAIR's original reads captions with it. It looks for, in this
order: a word that is an ending of one that has no singular; a plural in -ies
that stays; an irregular ending; the first of the regular ones. Left out is what
gives no word of any table: "dogs'" and compounds like "mothers-in-law".
"""

import functools
import re
from collections.abc import Sequence

from povid_jax.errors import UserError

# left alone, and so is whatever these words end in
_UNCHANGED = (
  "advice bison bream bread breeches britches butter carp chassis cheese "
  "christmas clippers cod contretemps corps debris diabetes djinn eland "
  "electricity elk equipment flounder fruit furniture gallows garbage georgia "
  "graffiti gravel happiness headquarters herpes high-jinks homework "
  "information innings jackanapes ketchup knowledge love luggage mackerel "
  "mathematics mayonnaise measles meat mews mumps mustard news pincers pliers "
  "proceedings progress rabies research rice salmon sand scissors series "
  "shears software species swine swiss trout tuna understanding water whiting "
  "wildebeest"
).split()
_IES_STAYS = tuple(
  f"{word}s"
  for word in (
    "alergie auntie beanie birdie bogie bombie collie cookie cutie doggie "
    "eyrie freebie goonie groupie hankie hippie hoagie hottie indie junkie "
    "laddie laramie lingerie meanie newbie nightie oldie pixie quickie reverie "
    "rookie softie sortie stoolie sweetie techie toughie valkyrie veggie "
    "weenie yuppie zombie"
  ).split()
)
_IRREGULAR = {
  "atlantes": "atlas",
  "atlases": "atlas",
  "axes": "axe",
  "beeves": "beef",
  "brethren": "brother",
  "children": "child",
  "corpora": "corpus",
  "corpuses": "corpus",
  "ephemerides": "ephemeris",
  "feet": "foot",
  "ganglia": "ganglion",
  "geese": "goose",
  "genera": "genus",
  "genii": "genie",
  "helves": "helve",
  "kine": "cow",
  "leaves": "leaf",
  "loaves": "loaf",
  "men": "man",
  "mongooses": "mongoose",
  "monies": "money",
  "mythoi": "mythos",
  "numena": "numen",
  "occipita": "occiput",
  "octopodes": "octopus",
  "opera": "opus",
  "opuses": "opus",
  "our": "my",
  "oxen": "ox",
  "penes": "penis",
  "penises": "penis",
  "people": "person",
  "sexes": "sex",
  "soliloquies": "soliloquy",
  "teeth": "tooth",
  "testes": "testis",
  "trilbys": "trilby",
  "turves": "turf",
  "zoa": "zoon",
}
# (what the word ends in, letters taken off, letters put on)
_REGULAR = tuple(
  (re.compile(f"(?:{ending})$"), cut, added)
  for ending, cut, added in (
    (".ae", 1, ""),
    (".itis", 0, ""),
    (".eaux", 1, ""),
    ("quizzes", 3, ""),
    ("matrices", 4, "ix"),
    ("(?:ap|vert|ind)ices", 4, "ex"),
    ("(?:alias|status)es", 2, ""),
    ("[octpvir|]i", 1, "us"),
    ("(?:cris|ax|test)es", 2, "is"),
    ("shoes", 1, ""),
    ("oes|buses", 2, ""),
    ("[ml|]ice", 3, "ouse"),
    ("(?:x|ch|ss|sh)es", 2, ""),
    ("movies|.ombies", 1, ""),
    ("series", 0, ""),
    ("(?:[^aeiouy]|qu)ies", 3, "y"),
    ("[aeo]lves|[^d]eaves|arves", 3, "f"),
    ("erves", 1, ""),
    ("[nlw]ives", 3, "fe"),
    ("[lr]ves", 3, "f"),
    ("[aeo]ves|[st]ives|hives", 1, ""),
    ("[^f]ves", 3, "fe"),
    ("(?:anal|.)yses|.opses", 2, "is"),
    ("(?:ba|diagno|parenthe|progno|the)ses", 2, "is"),
    ("(?:h|d|r|o|n|b|cl|p)oses", 1, ""),
    (".oses", 2, "is"),
    ("[ti]a", 1, "um"),
    ("news", 0, ""),
    ("s", 1, ""),
  )
)


def as_pattern(word: str) -> str:
  """A lower-case word's singular as pattern.en finds it."""
  if word.endswith(_IES_STAYS) or any(w.endswith(word) for w in _UNCHANGED):
    return word
  for ending, singular in _IRREGULAR.items():
    if word.endswith(ending):
      return word.removesuffix(ending) + singular
  if word.startswith("oxen"):
    return "ox" + word[4:]
  for ending, cut, added in _REGULAR:
    if ending.search(word):
      return word[: len(word) - cut] + added
  return word


def as_wordnet(words: Sequence[str]) -> list[str]:
  """WordNet's lemmas of a caption's tokens, each by its part of speech, as
  OPERA's chair.py reads them: "men riding" is "man ride".

  Raises:
    UserError: nltk or its data is not there.
  """
  try:
    import nltk
    from nltk.stem import WordNetLemmatizer

    lemmatize = WordNetLemmatizer().lemmatize
    return [
      # adjectives, verbs, adverbs by their tag; all else is read as a noun
      lemmatize(word, pos={"J": "a", "V": "v", "R": "r"}.get(tag[:1], "n"))
      for word, tag in nltk.pos_tag(list(words))
    ]
  except (ImportError, LookupError) as error:
    raise UserError(
      "--singular=wordnet needs the package nltk and its data: download "
      "averaged_perceptron_tagger_eng and wordnet with nltk.download()"
    ) from error


def as_inflect(word: str) -> str:
  """The same as inflect finds it; of a compound, that of its last part."""
  head, hyphen, last = word.rpartition("-")
  if not last.isalpha():
    return word
  return head + hyphen + (_inflect().singular_noun(last) or last)


@functools.cache
def _inflect():  # noqa: ANN202 - the type is the library's own
  import inflect  # imported here: it takes a second, and few commands need it

  return inflect.engine()
