"""Singulars, one row per rule of pattern.en; checked against it by hand."""

import pytest

from povid_jax.eval.benchmarks import singular

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
