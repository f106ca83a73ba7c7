"""Finds the objects that a caption names: CHAIR's reading of English.

The steps of the original (LisaAnne/Hallucination utils/chair.py): lower case,
tokens, singular of each token, double words merged from left to right, "seat"
dropped beside "toilet", words of the synonym table kept.

* Tokens are cut by the rules of the Penn treebank as nltk's word_tokenize has
  them, but a full stop ends a token wherever white space, a quote or a bracket
  follows: no trained sentence splitter is downloaded.
* Singulars: `singular="pattern"` does as pattern.en does, which the original
  uses: "bus" becomes "bu" and "ties" "ty", so both are missed. With "inflect" a
  word that stands in the table is left as it is, and they name a bus and ties.
  "wordnet" takes each word's lemma by its part of speech, as OPERA's variant.
* The table that comes with the package is our own; `--synonyms FILE` takes the
  original's synonyms.txt, and then "pattern" is the default.

The original's table has entries that can never match: those with a leading
blank (a double space in the file), with a capital letter, of three words, or of
two words that are not in its list of double words. They do not match here
either, unless `clean` is set.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from povid_jax.errors import UserError
from povid_jax.eval import needs
from povid_jax.eval.benchmarks import singular

OWN_TABLE = Path(__file__).with_name("chair_synonyms.txt")

# merged and kept as one word; the last two are no objects: they keep "plate"
# and "train" from being found in them
DOUBLE_WORDS = (
  *("motor bike", "motor cycle", "air plane", "traffic light"),
  *("street light", "traffic signal", "stop light", "fire hydrant"),
  *("stop sign", "parking meter", "suit case", "sports ball"),
  *("baseball bat", "baseball glove", "tennis racket", "wine glass"),
  *("hot dog", "cell phone", "mobile phone", "teddy bear", "hair drier"),
  *("potted plant", "laptop computer", "home plate", "train track"),
)
ANIMALS = (
  *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear"),
  *("zebra", "giraffe", "animal", "cub"),
)
RENAMED = {
  **{f"{age} {a}": a for a in ANIMALS for age in ("baby", "adult")},
  "passenger jet": "jet",
  "passenger train": "train",
  "bow tie": "tie",
  "toilet seat": "toilet",
  "wine glas": "wine glass",  # pattern.en's singular of "glass"
}
# what is a token of its own, wherever it stands
_APART = r"""\.{2,}|--|''|`+|[«“‘„»”’";?!*@\#$%&‒–—―<>()\[\]{}]|[:,](?!\d)
  |\.(?=[\s"'?!*;:@()\[\]{}‘’“”«»]|>*\Z)(?!\s+(?:''|["“‘«])(?:\s|\Z))"""
_END = rf"(?=\s|\Z|{_APART})"
_CLITIC = rf"'(?:s|m|d|ll|re|ve)?{_END}"
_NOT = rf"n't{_END}"  # "isn't" is "is" and "n't"
_OPENS = r"(?<!\w)'(?!(?:re|ve|ll|[mtsdn])\b)(?=\w)"
_MARK = f"{_APART}|{_CLITIC}|{_NOT}|{_OPENS}"
_WORD = rf"[^\W_]+?(?={_NOT})|(?!{_NOT})[^\W_]+|(?!{_MARK})\S"
_TOKEN = re.compile(rf"(?:{_MARK})|(?:{_WORD})+", re.VERBOSE)


def tokens(text: str) -> list[str]:
  """A text cut by the rules of the Penn treebank."""
  return _TOKEN.findall(text)


@dataclass(frozen=True)
class Mention:
  """A word of a caption that names an object of the table.

  `start` and `end` are offsets into the caption.
  """

  word: str
  object: str
  start: int
  end: int


@dataclass
class Vocabulary:
  """The names of objects, and how captions are read for them.

  Attributes:
    names: word or double word -> object (the first word of its line).
    doubles: two words -> what they are merged into.
    triples: three words -> the same, clean rules only.
  """

  names: dict[str, str]
  doubles: dict[str, str]
  triples: dict[str, str] = field(default_factory=dict)
  singular_rule: str = "inflect"
  _singulars: dict[str, str] = field(default_factory=dict)

  def singular(self, word: str) -> str:
    """The word's singular, by this vocabulary's rule."""
    known = self._singulars.get(word)
    if known is None:
      known = self._singulars[word] = self._find_singular(word)
    return known

  def keep(self, categories: Iterable[str]) -> None:
    """Forgets the objects that no category names: nobody annotated them."""
    kept = {self.names[name] for name in categories}
    for word in [w for w, name in self.names.items() if name not in kept]:
      del self.names[word]

  def _find_singular(self, word: str) -> str:
    if self.singular_rule == "pattern":
      return singular.as_pattern(word)
    return word if word in self.parts else singular.as_inflect(word)

  @functools.cached_property
  def parts(self) -> set[str]:
    """Every word of the table and of the double words: already singular."""
    entries = [*self.names, *self.doubles, *self.triples]
    return {part for entry in entries for part in entry.split()}

  def mentions(self, caption: str) -> list[Mention]:
    """The objects named in a caption, with repetition, in order."""
    found = list(_TOKEN.finditer(caption.lower()))
    said = [match.group() for match in found]
    if self.singular_rule == "wordnet":  # by the words beside it
      said = singular.as_wordnet(said)
    else:
      said = [self.singular(word) for word in said]
    words = self._merge(
      (word, m.start(), m.end()) for word, m in zip(said, found, strict=True)
    )
    held = {word for word, _, _ in words}
    no_seat = "toilet" in held and "seat" in held
    return [
      Mention(word, self.names[word], start, end)
      for word, start, end in words
      if word in self.names and not (no_seat and word == "seat")
    ]

  def _merge(
    self, tokens: Iterable[tuple[str, int, int]]
  ) -> list[tuple[str, int, int]]:
    """Joins double words from left to right; both are used up."""
    tokens, merged, i = list(tokens), [], 0
    while i < len(tokens):
      for size, table in ((3, self.triples), (2, self.doubles)):
        group = tokens[i : i + size]
        joined = table.get(" ".join(word for word, _, _ in group))
        if joined is not None and len(group) == size:
          merged.append((joined, group[0][1], group[-1][2]))
          i += size
          break
      else:
        merged.append(tokens[i])
        i += 1
    return merged


def load(
  path: Path | None = None,
  singular: str = "inflect",
  clean: bool = False,
  categories: Iterable[str] = (),
) -> Vocabulary:
  """Reads a synonym table: one line per object, "name, synonym, ...".

  Args:
    path: a table in the original's format; None takes ours.
    singular: "inflect", "pattern" or "wordnet".
    clean: entries that cannot match in the original match here.
    categories: names of the annotations; one that the table lacks names itself,
      so that CHAIR works for any COCO-format annotation.

  Raises:
    UserError: the table is empty or not UTF-8.
  """
  path = path or OWN_TABLE
  doubles = {words: words for words in DOUBLE_WORDS} | RENAMED
  vocabulary = Vocabulary({}, doubles, singular_rule=singular)
  for line in needs.read_text(path).splitlines():
    entries = line.strip().split(", ")
    if clean:
      entries = [entry.strip().lower() for entry in entries if entry.strip()]
    for entry in entries if any(entries) else ():
      vocabulary.names[entry] = entries[0]
      if clean:
        _add_group(vocabulary, entry)
  if not vocabulary.names:
    raise UserError(f"{path}: no line of the form 'name, synonym, ...'")
  for category in categories:
    if category not in vocabulary.names:
      vocabulary.names[category] = category
      vocabulary.names.setdefault(category.lower(), category)
      _add_group(vocabulary, category.lower())
  return vocabulary


def _add_group(vocabulary: Vocabulary, entry: str) -> None:
  size = len(entry.split())
  if size == 2:
    vocabulary.doubles.setdefault(entry, entry)
  elif size == 3:
    vocabulary.triples[entry] = entry
