"""An answer to edit, and the known objects of its picture."""

from dataclasses import dataclass

from data_gen.rules.corpus import Corpus
from data_gen.rules.lexicon import Mention


@dataclass(frozen=True)
class Scene:
  """One answer that is to be edited, and what is known of its image."""

  text: str
  image: str
  question: str
  mentions: tuple[Mention, ...]
  present: frozenset[str]
  # Categories that a wrong answer must not use for this image.
  known: frozenset[str]


def scene(corpus: Corpus, image: str, question: str, text: str) -> Scene:
  """Finds the nouns of an answer."""
  mentions = tuple(corpus.lexicon.find(text))
  present = {m.noun.category for m in mentions}
  asked = corpus.lexicon.categories(question)
  known = corpus.known(image, present | asked)
  return Scene(text, image, question, mentions, frozenset(present), known)
