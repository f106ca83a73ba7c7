"""What the tests of the rules ask: edits of a text."""

import random

from data_gen.rules import attributes, objects, relations
from data_gen.rules.changes import apply
from data_gen.rules.corpus import (
  Answer,
  Corpus,
  learn,
)
from data_gen.rules.lexicon import Lexicon
from data_gen.rules.scene import scene

LEXICON = Lexicon()


STREET = "A red car is parked next to a bench. Two dogs sit behind the car."


def corpus_of(*texts: str, question: str = "Describe it.") -> Corpus:
  answers = [Answer(str(i), question, text) for i, text in enumerate(texts)]
  return learn(answers, LEXICON)


def results(
  text: str, make, question: str = "What is seen?", more: tuple[str, ...] = ()
) -> set[str]:
  """Every text that single proposals of `make` lead to, over some seeds."""
  corpus = corpus_of(text, *more)
  found = scene(corpus, "0", question, text)
  texts = set()
  for seed in range(12):
    for proposal in make(corpus, found, random.Random(seed)):
      texts.add(apply(text, proposal)[0])
  return texts


def attribute(text: str, **options) -> set[str]:
  return results(text, attributes.attributes, **options)


def relation(text: str) -> set[str]:
  return results(text, lambda c, s, rng: relations.relations(s, rng))


def replaced(text: str, **options) -> set[str]:
  make = lambda c, s, rng: objects.replacements(c, s, rng, "group")
  return results(text, make, **options)


# Lexicon.
