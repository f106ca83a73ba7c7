"""Words that have more than one sense, where only one of them is a thing."""

import pytest

from data_gen.rules.corpus import Answer, learn
from data_gen.rules.lexicon import Lexicon, vocabulary

LEXICON = Lexicon()


def editable(text: str) -> list[tuple[str, bool]]:
  return [(m.noun.name, m.plural) for m in LEXICON.find(text) if m.head]


@pytest.mark.parametrize(
  ("text", "found"),
  [
    # Verbs.
    ("The umpire in black watches attentively.", []),
    ("The catcher watches the game.", []),
    ("She holds two watches.", [("watch", True)]),
    ("He skis down a slope.", []),
    ("The pair of skis is red.", [("skis", True)]),
    ("The peaks tower over a valley.", []),
    ("A tower is there.", [("tower", False)]),
    ("He rose from there.", []),
    ("A rose is there.", [("rose", False)]),
    ("a place to park", []),
    ("next to parks", [("park", True)]),
    # Games and dishes.
    ("They are playing baseball in winter.", []),
    ("a game of football", []),
    ("He throws a white baseball.", [("baseball", False)]),
    ("a piece of grilled chicken", []),
    ("a chicken", [("chicken", False)]),
    # Colours.
    ("His jersey is orange, not new.", []),
    ("the orange and white stripes", []),
    ("a bright orange, striped one", []),
    ("He peels an orange.", [("orange", False)]),
    ("Orange", [("orange", False)]),
    ("red, orange, yellow", []),
    # Glasses.
    ("wearing black glasses", [("glasses", True)]),
    ("a pair of glasses", [("glasses", True)]),
    ("two glasses of wine", [("glass", True)]),
    ("The glasses are old.", []),
    # One form for both numbers.
    ("a herd of sheep", [("sheep", True)]),
    ("Several sheep graze.", [("sheep", True)]),
    ("A black-faced sheep", [("sheep", False)]),
    ("The sheep are white.", [("sheep", True)]),
    ("The sheep is white.", [("sheep", False)]),
    ("The sheep graze.", []),
  ],
)
def test_only_things_are_exchanged(text, found):
  assert editable(text) == found


def test_a_thing_has_the_name_that_the_corpus_gives_it():
  ball = LEXICON.by_category["sports ball"]
  learned = lambda text: learn([Answer("0", "q", text)], LEXICON)
  assert learned("A ball and a cup.").spoken(ball).name == "ball"
  assert learned("A sports ball and a cup.").spoken(ball).name == "sports ball"


def test_the_tables_name_words_of_the_vocabulary():
  data = vocabulary()
  names = set(LEXICON.by_category)
  groups = set(data["groups"]) | {"mass"}
  for place in data["places"].values():
    assert set(place.split()) <= groups
  assert set(data["never_inserted"].split()) <= groups
  for category, kinds in data["kinds_of"].items():
    found = {kind.replace("_", " ") for kind in kinds.split()}
    assert found | {category} <= names
  swapped = {
    word
    for entries in data["swaps"].values()
    for entry in entries.split("; ")
    for word in entry.partition(">")[0].split("/")
  }
  tables = ("not_after", "not_before", "only_after", "only_before")
  for table in tables:
    assert set(data[table]) <= swapped | {"noon"}, table
