"""Our few rules of English agree with inflect on every word that we use."""

import pytest

from data_gen.rules import english
from data_gen.rules.lexicon import Lexicon


@pytest.fixture(scope="module")
def engine():
  import inflect

  return inflect.engine()


def test_plurals_and_articles_of_the_vocabulary(engine):
  differ = {}
  for noun in Lexicon().by_category.values():
    if noun.mass or noun.plural_only:
      continue
    theirs = engine.plural_noun(noun.name), engine.a(noun.name).split()[0]
    ours = english.plural(noun.name), english.article(noun.name)
    if theirs != ours:
      differ[noun.name] = theirs[0], ours[0]
  # inflect capitalises the ending after capitals, and both plurals are right.
  assert differ == {
    "TV": ("TVS", "TVs"),
    "cactus": ("cactuses", "cacti"),
  }


def test_articles_before_adjectives_and_numbers(engine):
  words = """hour honest university unicorn unusual one European uniform heir
    orange yellow used ugly iron union unit unlit uninvited unimportant oven
    hot eleven user""".split()
  ours = {word: english.article(word) for word in words}
  theirs = {word: engine.a(word).split()[0] for word in words}
  assert ours == theirs


def test_articles_before_digits():
  digits = ("8", "11", "18", "80", "7", "110", "1")
  articles = [english.article(word) for word in digits]
  assert articles == ["an", "an", "an", "an", "a", "a", "a"]


def test_number_words(engine):
  for number in range(100):
    assert english.number_word(number) == engine.number_to_words(number)
  assert english.number_word(100) == "100"
