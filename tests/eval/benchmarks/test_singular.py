"""Singulars, one row per rule of pattern.en; checked against it by hand."""

import sys
import types

import pytest

from povid_jax.errors import UserError
from povid_jax.eval.benchmarks import chair_words, singular

PATTERN = {
  "s": ("dogs", "dog"),
  "even where it is no plural": ("bus", "bu"),
  "double s": ("glass", "glas"),
  "no singular": ("scissors", "scissors"),
  "an ending of a word without one": ("hears", "hears"),
  "irregular": ("mice", "mouse"),
  "irregular at the end": ("policemen", "policeman"),
  "irregular people": ("people", "person"),
  "irregular children": ("grandchildren", "grandchild"),
  "irregular by mistake": ("four", "fmy"),
  "oxen": ("oxens", "oxs"),
  "ies": ("puppies", "puppy"),
  "ies after a vowel": ("donkeies", "donkeie"),
  "ies by mistake": ("ties", "ty"),
  "ies that stays": ("doggies", "doggies"),
  "movies": ("movies", "movie"),
  "oes": ("canoes", "cano"),
  "shoes": ("horseshoes", "horseshoe"),
  "ches": ("couches", "couch"),
  "sses": ("wineglasses", "wineglass"),
  "xes": ("boxes", "box"),
  "buses": ("minibuses", "minibus"),
  "ses": ("vases", "vase"),
  "oses": ("hoses", "hose"),
  "osis": ("osmoses", "osmosis"),
  "bases": ("bases", "basis"),
  "lves": ("calves", "calf"),
  "nives": ("knives", "knife"),
  "eaves": ("sheaves", "sheaf"),
  "oves": ("gloves", "glove"),
  "ives by mistake": ("olives", "olife"),
  "ves": ("drives", "drife"),
  "tives": ("natives", "native"),
  "i": ("octopi", "octopus"),
  "i that stays": ("ski", "ski"),
  "a": ("pita", "pitum"),
  "ae": ("algae", "alga"),
  "nothing": ("", ""),
}


@pytest.mark.parametrize("rule", PATTERN)
def test_as_pattern(rule):
  word, expected = PATTERN[rule]
  assert singular.as_pattern(word) == expected


@pytest.mark.parametrize(
  ("word", "expected"),
  [
    ("dogs", "dog"),
    ("dog-houses", "dog-house"),
    ("3", "3"),
    ("-in-law", "-in-law"),  # inflect itself stops with an error
    ("", ""),
  ],
)
def test_as_inflect(word, expected):
  assert singular.as_inflect(word) == expected


def test_wordnet_lemmas_by_part_of_speech(monkeypatch):
  """A tagger and a lemmatizer of a few words stand for nltk and its data."""
  tags = {"men": "NNS", "riding": "VBG", "better": "JJR", "dogs": "NNS"}
  lemmas = {
    ("men", "n"): "man",
    ("riding", "v"): "ride",
    ("better", "a"): "good",
    ("dogs", "n"): "dog",
  }
  stem = types.ModuleType("nltk.stem")
  stem.WordNetLemmatizer = lambda: types.SimpleNamespace(
    lemmatize=lambda word, pos: lemmas.get((word, pos), word)
  )
  nltk = types.ModuleType("nltk")
  nltk.pos_tag = lambda words: [(word, tags.get(word, "IN")) for word in words]
  monkeypatch.setitem(sys.modules, "nltk", nltk)
  monkeypatch.setitem(sys.modules, "nltk.stem", stem)
  words = ["men", "riding", "better", "dogs", "of"]
  assert singular.as_wordnet(words) == ["man", "ride", "good", "dog", "of"]
  vocabulary = chair_words.load(singular="wordnet")
  found = vocabulary.mentions("Men riding better dogs")
  assert [(m.object, m.start, m.end) for m in found] == [
    ("person", 0, 3),
    ("dog", 18, 22),
  ]


def test_wordnet_says_what_is_missing(monkeypatch):
  monkeypatch.setitem(sys.modules, "nltk", None)
  with pytest.raises(UserError, match="averaged_perceptron_tagger_eng"):
    chair_words.load(singular="wordnet").mentions("A dog.")
