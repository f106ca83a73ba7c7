"""AMBER's two tools of language, with and without downloaded data.

The original finds nouns with nltk (tagger and WordNet) and likens words with
spaCy's en_core_web_lg. Both need data of their own, so by default:

* "vocabulary": every word whose singular stands in AMBER's vocabulary is a
  noun. A verb that is spelled like one ("a man bears", "watch") counts as well,
  and singulars come from `inflect` where WordNet may have another lemma.
* "exact": two words are alike if they are equal. Synonyms that are not among
  AMBER's associations count as hallucinated, so CHAIR and Hal come out higher
  and Cover lower than with spaCy.

"nltk" and "spacy" do as the original does where packages and data are there.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any

from povid_jax.errors import UserError
from povid_jax.eval.benchmarks import chair_words

Nouns = Callable[[str], list[str]]
Alike = Callable[[str, str], bool]

LIKENESS = 0.8  # the original's --similarity_score


def nouns(kind: str, vocabulary: Collection[str], lower: bool) -> Nouns:
  """A finder of a text's nouns; `lower` ignores capitals."""
  if kind == "nltk":
    return _nltk_nouns(lower)
  words = chair_words.Vocabulary({name: name for name in vocabulary}, {})

  def find(text: str) -> list[str]:
    text = text.lower() if lower else text
    return [words.singular(token) for token in chair_words.tokens(text)]

  return find


def _nltk_nouns(lower: bool) -> Nouns:
  try:
    import nltk
    from nltk.stem import WordNetLemmatizer
  except ImportError as error:
    raise UserError(
      "--nouns=nltk: the package nltk is not installed"
    ) from error
  lemmatizer = WordNetLemmatizer()

  def find(text: str) -> list[str]:
    text = text.lower() if lower else text
    try:
      tagged = nltk.pos_tag(nltk.word_tokenize(text))
      return [
        lemmatizer.lemmatize(word)
        for word, tag in tagged
        if tag.startswith("NN")
      ]
    except LookupError as error:
      raise UserError(
        "--nouns=nltk: its data is missing; download punkt_tab, "
        "averaged_perceptron_tagger_eng and wordnet with nltk.download()"
      ) from error

  return find


def exact(a: str, b: str) -> bool:
  """The same word."""
  return a == b


def alike(kind: str) -> Alike:
  """A test whether two words mean about the same."""
  if kind == "exact":
    return exact
  language = _spacy()

  @functools.cache
  def meaning(word: str) -> Any:
    return language(word)

  @functools.cache
  def compare(a: str, b: str) -> bool:
    return meaning(a).similarity(meaning(b)) > LIKENESS

  return compare


def _spacy() -> Any:
  try:
    import spacy

    return spacy.load("en_core_web_lg")
  except (ImportError, OSError) as error:
    raise UserError(
      "--similarity=spacy: needs the package spacy and its model "
      "en_core_web_lg (python -m spacy download en_core_web_lg)"
    ) from error
