"""Which objects are exchanged, and which are added where."""

import collections
import random

import pytest

from data_gen.rules import objects
from data_gen.rules.changes import Change, apply, disjoint
from data_gen.rules.corpus import (
  Answer,
  Corpus,
  Said,
  learn,
  meet,
)
from data_gen.rules.lexicon import Lexicon
from data_gen.rules.scene import scene
from tests.data_gen.rules.edits import (  # noqa: E402
  LEXICON,
  STREET,
  corpus_of,
  replaced,
  results,
)


@pytest.mark.parametrize(
  ("text", "found"),
  [
    ("A teddy bear on two couches.", [("teddy bear", 0), ("couch", 1)]),
    ("Cell phones and a TV.", [("cell phone", 1), ("tv", 0)]),
    ("People near a sofa", [("person", 1), ("couch", 0)]),
    ("an orange cup", [("cup", 0)]),
    ("an orange and a cup", [("orange", 0), ("cup", 0)]),
    ("carpet, scar, catalogue", [("rug", 0)]),
  ],
)
def test_nouns_are_found_by_category_and_number(text, found):
  mentions = LEXICON.find(text)
  assert [(m.noun.category, int(m.plural)) for m in mentions] == found


@pytest.mark.parametrize(
  ("text", "heads"),
  [
    ("a dog bed in a room", [False, False, True]),
    ("the car engine", [False]),
    ("the cat's bowl", [True, True]),
    ("a dog sleeping", [True]),
    ("a dog-friendly place", []),
    ("an orange dog is here", [True]),
  ],
)
def test_only_the_head_of_a_phrase_may_be_exchanged(text, heads):
  assert [m.head for m in LEXICON.find(text)] == heads


def test_annotated_categories_extend_the_vocabulary():
  lexicon = Lexicon([("gizmo", "thing"), ("cat", "animal")])
  assert lexicon.categories("two gizmos and a cat") == {"gizmo", "cat"}


# Changes.


def test_the_article_follows_the_new_word():
  text = "An old man eats a pear."
  changes = [Change(3, 6, "young", "attribute"), Change(18, 22, "apple", "x")]
  new, edits = apply(text, changes)
  assert new == "A young man eats an apple."
  assert edits == [
    {"span": "A young", "original": "An old", "kind": "attribute"},
    {"span": "an apple", "original": "a pear", "kind": "x"},
  ]


def test_neighbouring_changes_are_not_disjoint():
  change = Change(10, 15, "x", "k")
  assert disjoint((Change(0, 8, "y", "k"),), [change])
  assert not disjoint((Change(0, 9, "y", "k"),), [change])
  assert not disjoint((Change(12, 13, "y", "k"),), [change])


# Objects.


def test_all_mentions_of_one_thing_change_together():
  for text in replaced(STREET):
    assert not ("car" in text and "behind the car" not in text)
  cars = [text for text in replaced(STREET) if "car" not in text.split()]
  assert cars
  for text in cars:
    noun = text.split(" is parked")[0].removeprefix("A red ")
    assert f"behind the {noun}." in text


def test_two_indefinite_mentions_are_two_things():
  texts = replaced("There is a cup on the left and a cup on the right.")
  assert all(text.count("cup") == 1 for text in texts)


def test_number_and_article_are_kept():
  texts = replaced("Two apples and an orange lie there.")
  assert texts
  for text in texts:
    first, _, rest = text.removeprefix("Two ").partition(" and ")
    assert first.endswith(("s", "es"))
    article, noun = rest.split()[:2]
    assert article == ("an" if noun[0] in "aeiou" else "a")


def test_what_the_question_names_is_not_exchanged():
  texts = replaced("The cat sits on a bed.", question="What is the cat doing?")
  assert texts and all("cat" in text for text in texts)


@pytest.mark.parametrize(
  "text",
  [
    "She is talking on her cell phone.",
    "She is riding a brown horse.",
    "A walk-in shower is here.",
    "He runs to home plate.",
    "A clock high up shows 3:15.",
    "A traffic light shows green.",
    "She walks her old dog.",
    "A bouquet of flowers is here.",
    "A ewe is one of the sheep, beside its lamb.",
  ],
)
def test_what_the_words_around_it_need_stays(text):
  assert replaced(text) == set()


def test_a_furnished_room_stays_what_it_is():
  furnished = replaced("The bedroom has a bed and a lamp.")
  assert furnished and all("bedroom" in text for text in furnished)
  assert replaced("The bedroom is dark.")


def test_new_objects_are_likely_ones_that_are_absent():
  lexicon = LEXICON
  scenes = ["A fork and a bowl."] * 30 + ["A fork and a bottle."] * 3
  answers = [Answer(str(i), "q", text) for i, text in enumerate(scenes)]
  text = "A fork and a cup."
  corpus = learn([*answers, Answer("x", "q", text)], lexicon)
  found = scene(corpus, "x", "q", text)
  words = [
    apply(text, proposal)[0]
    for seed in range(200)
    for proposal in objects.replacements(
      corpus, found, random.Random(seed), "group"
    )
  ]
  bowls = sum("a bowl" in word for word in words)
  assert bowls > 5 * sum("a bottle" in word for word in words) > 0
  assert corpus.likelihood("bowl", ["fork"]) > 0.8


def test_annotated_objects_are_never_invented():
  lexicon = LEXICON
  everything = {n.category for n in lexicon.by_category.values()} - {"dog"}
  text = "A cat sits there."
  corpus = learn([Answer("x", "q", text)], lexicon, {"x": everything})
  found = scene(corpus, "x", "q", text)
  proposals = objects.replacements(corpus, found, random.Random(0), "group")
  assert [apply(text, p)[0] for p in proposals] == ["A dog sits there."]


def test_an_insertion_joins_a_list_or_follows_a_description():
  text = "There is a cup, a fork, and a bowl on the table. It looks tidy."
  make = lambda c, s, rng: objects.insertions(c, s, rng)
  more = ("A cup and a plant are here.", "A bowl and a bottle are here.")
  corpus_text = results(text, make, more=more)
  lists = [t for t in corpus_text if t.endswith("tidy.") and ". It" in t]
  assert any(", and a bowl" in t and t.count(",") == 3 for t in lists)
  assert all(len(t) > len(text) for t in corpus_text)


@pytest.mark.parametrize(
  "text",
  [
    # A clause follows, or a clause came before.
    "The sun is hot, the apple is a snack, and the bear adds a touch.",
    "The sky is dark, the waves are high and a red flag flies there.",
    "First, it gives shade. Second, it serves as a visible mark there.",
  ],
)
def test_nothing_is_inserted_into_a_clause_or_an_argument(text):
  make = lambda c, s, rng: objects.insertions(c, s, rng)
  assert results(text, make) == set()


def test_an_argument_is_not_interrupted():
  text = "There is a cup on the table. It is seen from above."
  make = lambda c, s, rng: objects.insertions(c, s, rng)
  more = ("A cup and a lamp are here.",)
  assert results(text, make, more=more) != set()
  question = "Why is the cup there?"
  assert results(text, make, question=question, more=more) == set()


def test_only_what_the_corpus_has_seen_there_is_added():
  text = "There is a cup on the table. It is seen from above."
  make = lambda c, s, rng: objects.insertions(c, s, rng)
  assert results(text, make) == set()
  # A handbag is carried, it does not lie around; a bus is in no kitchen.
  for more in ("A cup and a handbag are here.", "A cup by a bus."):
    assert results(text, make, more=(more,)) == set()


def test_the_corpus_lends_its_sentences():
  corpus = corpus_of(
    "A cup is on the left. A dog is there.",
    "There is a fork in the corner. A cat sits by it.",
    "A handbag is placed near the front of the cart.",
  )
  assert "handbag" not in corpus.sentences  # of which cart?
  said = corpus.sentences["fork"]
  assert said == [
    Said("Describe it.", "There is a fork in the corner.", 30 / 48)
  ]
  assert "cat" not in corpus.sentences  # "it" leans on another sentence


def inserted(corpus: Corpus, text: str, seeds: int) -> collections.Counter:
  """Texts about a picture that the corpus does not have -> how often made."""
  found = scene(corpus, "new", "Describe it.", text)
  return collections.Counter(
    apply(text, list(proposal))[0]
    for seed in range(seeds)
    for proposal in objects.insertions(corpus, found, random.Random(seed))
  )


def test_a_lent_sentence_goes_where_the_corpus_has_it():
  corpus = corpus_of(
    "A cup is on the left. There is a lamp nearby. A bowl is seen.",
    "A cup is on the left. A bowl is seen. There is a fork nearby.",
    *["A cup is on the left. A bowl is seen."] * 3,
  )
  made = inserted(corpus, "A cup is on the left. A bowl is seen.", 30)
  assert made.keys() == {
    "A cup is on the left. There is a lamp nearby. A bowl is seen.",
    "A cup is on the left. A bowl is seen. There is a fork nearby.",
  }


def test_what_the_corpus_says_often_is_lent_most():
  corpus = corpus_of(
    *["A cup is on the left. There is a fork nearby."] * 9,
    "A cup is on the left. There is a red fork at the top.",
  )
  text = "A cup is on the left. A bowl is seen."
  made = inserted(corpus, text, 200)
  usual = f"{text} There is a fork nearby."
  own = f"{text} There is a red fork at the top."
  assert made.keys() <= {usual, own}
  assert made[usual] > 20 * made[own]


def test_groups_of_one_place_meet():
  assert meet("tableware", "appliance")
  assert not meet("tableware", "wild")
  assert meet("never heard of", "wild")


# Attributes.
