"""Each kind of edit on sentences small enough to check by eye."""

import collections
import random

import pytest

from data_gen.rules import attributes, objects, relations, replies
from data_gen.rules.changes import Change, apply, disjoint
from data_gen.rules.corpus import (
  Answer,
  Corpus,
  Said,
  learn,
  meet,
  question_form,
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
    "A ewe is one of the sheep, beside its lamb.",
  ],
)
def test_what_the_words_around_it_need_stays(text):
  assert replaced(text) == set()


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


@pytest.mark.parametrize(
  ("text", "wrong"),
  [
    ("The man is standing.", "The man is sitting."),
    ("People are standing by a chair.", None),
    ("Dogs are standing. A cat stands alone.", None),
    ("A cat is sitting on the table.", None),
    # Nothing without a context has an opposite.
    ("A wet dog in an old house.", None),
    ("An open window of a new car.", None),
    ("A ripe banana inside a clean bowl.", None),
    ("a wooden table", "a metal table"),
    ("a group of wooden studs", None),
    ("A large bus passes a large bus.", "A small bus passes a small bus."),
    ("A large bus passes a large dog.", "A small bus passes a large dog."),
    ("A large bus may be full.", None),
    ("A large bus.", "A small bus."),
    ("They may open doors.", None),
    ("They all open their doors.", None),
    ("It has parked the car.", None),
    ("This stands out.", None),
    ("A long time ago", None),
    ("He is standing out.", None),
    ("a well-lit room", None),
    ("It is damp or dark.", None),
    ("An apple is sitting on the table.", None),
    ("a glass of water", None),
    ("a glass door", "a plastic door"),
    ("in the town square", None),
    ("a square box", "a round box"),
    ("They eat, swimming pool and all.", None),
    ("He is walking his dog.", None),
    ("Running water is there.", None),
    ("They are eating at noon.", None),
    ("It is crowded with us.", None),
    ("They are busy cooking.", None),
    ("They watch from the stands.", None),
    ("the beautiful sunset there", None),
    ("A bag is lying flat.", None),
    ("He hit a baseball.", None),
    ("The clock shows 3:15.", "The clock shows 4:15."),
    ("a ratio of 16:90", None),
    ("some orange juice", None),
  ],
)
def test_states_and_materials(text, wrong):
  texts = attribute(text)
  assert (wrong in texts) if wrong else not texts


def test_colors_stay_possible():
  assert {t.split()[1] for t in attribute("the green grass")} <= {
    "brown",
    "yellow",
  }
  assert attribute("a black and white photo") == set()
  assert attribute("He eats an orange") == set()
  for text in attribute("Her dress is orange, I think."):
    assert text.split()[3] not in ("orange,", "apple,")
  assert len(attribute("Her dress is orange, I think.")) > 3
  for text in attribute("a light blue chair"):
    assert text.split()[2] not in ("black", "white", "gray", "blue")


def test_numbers_keep_their_plural_and_their_sense():
  assert attribute("Three dogs run.") >= {"Four dogs run.", "Two dogs run."}
  assert "One dogs run." not in attribute("Two dogs run.")
  assert attribute("Two dogs, one here, the other there.") == set()
  assert attribute("1. It is good for two reasons") == set()
  assert attribute("It is between two cups.") == set()
  assert attribute("There are 5 cups.") >= {"There are 6 cups."}
  assert attribute(f"There are {'9' * 5000} cups.") == set()


def test_a_man_becomes_a_woman_with_all_his_pronouns():
  texts = attribute("A man holds his hat. He smiles.")
  assert "A woman holds her hat. She smiles." in texts
  assert "A boy holds his hat. He smiles." in texts
  # "her" may be "his" or "him".
  assert attribute("A woman holds her hat.") == {"A girl holds her hat."}
  assert attribute("A man and a child.") == set()


# Relations.


@pytest.mark.parametrize(
  ("text", "wrong"),
  [
    ("A cup is on the left side.", {"A cup is on the right side."}),
    # All sides at once: the description agrees with itself.
    ("A cup is on the left, a fork on the right.",
     {"A cup is on the right, a fork on the left."}),
    ("A dog is in the foreground and a car in the background.",
     {"A dog is in the background and a car in the foreground."}),
    ("A man with a cup in his left hand, on the right side.", set()),
    ("One slice is left on the left side.", set()),
    ("It may be that he sits on the left side.", set()),
    ("A cat is sitting under the table.",
     {"A cat is sitting on top of the table.",
      "A cat is sitting next to the table."}),
    ("A dog is next to a bench.",
     {"A dog is behind a bench.", "A dog is in front of a bench."}),
    ("A cup in the middle of the image.",
     {"A cup on the left side of the image.",
      "A cup on the right side of the image."}),
    # What is told is more than a place, or no place at all.
    ("A man is playing behind the table.", set()),
    ("A man rides in front of the cars.", set()),
    ("A house is under construction.", set()),
    ("It is next to it.", set()),
    ("A dog is near a bench, far from the car.", set()),
    ("A dog is inside the car.", set()),
    ("In the middle of a game.", set()),
    ("They play under a clear blue sky.", set()),
  ],
)  # fmt: skip
def test_relations(text, wrong):
  assert relation(text) == wrong


# Frames.


def test_a_noun_must_fit_what_is_said_around_it():
  # Nothing is known of what the skateboard's wheels would be of a surfboard.
  assert replaced("The skateboard has black wheels.") == set()
  assert replaced("The umbrella protects her from rain.") == set()
  assert replaced("A cat is asleep. The feline is calm.") == set()
  assert replaced("A cat is on the bed.") != set()


def test_the_corpus_says_what_fits():
  text = "A cat is purring and napping there."
  known = [
    "A dog is napping here.",
    "A rabbit is napping here.",
    "A parrot is napping here.",
  ]

  def others(*texts):
    corpus = learn(
      [Answer(str(i), "q", t) for i, t in enumerate([text, *texts])], LEXICON
    )
    found = scene(corpus, "0", "q", text)
    return {
      apply(text, proposal)[0].split()[1]
      for seed in range(30)
      for proposal in objects.replacements(
        corpus, found, random.Random(seed), "group"
      )
    }

  assert others(*known) == set()  # none of them is said to purr
  text = "A cat is napping there."
  assert others() == set()
  assert others(known[0]) == {"dog"}
  assert others(*known) == {"dog", "rabbit", "parrot", "hamster"}


def test_in_an_argument_every_word_must_fit():
  text = "There is a cup. A cup may be used for drinking coffee at breakfast."
  assert all("cup may be" in t for t in replaced(text))


# Replies.


@pytest.mark.parametrize(
  ("right", "wrong"),
  [
    ("Yes.", "No."),
    ("no", "yes"),
    ("Yes, there is a cat on the bed.", "No, there is no cat on the bed."),
    ("Yes, there are two cats.", "No, there are no cats."),
    ("Yes, there are two cats, including a tabby, here. They sleep.",
     "No, there are no cats."),
    ("Yes, there is a cat. Two dogs run.",
     "No, there is no cat. Two dogs run."),
    ("No, there is no cat.", "Yes, there is a cat."),
    ("No, there are no umbrellas.", "Yes, there are some umbrellas."),
    ("Yes, the cat is asleep. It snores.",
     "No, the cat is not asleep. It snores."),
    ("No, it is not raining.", "Yes, it is raining."),
    ("No, it isn't raining.", "Yes, it is raining."),
    ("Yes, he has a hat.", "No, he does not have a hat."),
    ("Yes, they have some hats.", "No, they do not have any hats."),
    ("Yes, he has been there.", None),
    ("Yes, it appears to be wet.", "No, it does not appear to be wet."),
    ("Yes, I can see it.", "No, I cannot see it."),
    ("Yes, I can see two dogs.", None),
    ("No, she does not have glasses.", "Yes, she has glasses."),
    ("No, he doesn't catch it.", "Yes, he catches it."),
    ("No, they do not run.", "Yes, they run."),
    ("A dog.", None),
  ],
)  # fmt: skip
def test_yes_and_no(right, wrong):
  assert replies.flip_yes_no("?", right) == wrong


def test_yes_no_from_the_question():
  question = "<image>\nIs there a dog in the image?"
  wrong = replies.wrong_yes_no(question, "Yes, I can spot one by the tree.")
  assert wrong is not None and wrong.startswith("No, ")
  assert replies.wrong_yes_no(question, "No, only cats play here.") == (
    "Yes, there is a dog in the image."
  )
  question = "Can you see any animals?"
  wrong = replies.wrong_yes_no(question, "Yes, I can see two horses.")
  assert wrong == "No, I cannot see any animals."


def short(question: str, answer: str, *others: str) -> str | None:
  answers = [Answer("0", question, answer)]
  answers += [Answer(str(i), question, o) for i, o in enumerate(others, 1)]
  corpus = learn(answers, LEXICON)
  found = scene(corpus, "0", question, answer)
  return replies.wrong_short(corpus, found, answer, random.Random(1))


def test_short_answers_of_the_same_kind():
  assert short("How many?", "Three") in ("Two", "Four", "Five")
  assert short("How many?", "2.") in ("1.", "3.", "4.")
  assert short("Which?\nA. cat\nB. dog", "B") == "A"
  assert short("Which?\nA. cat\nB. dog", "B. dog") == "A. cat"
  assert short("What animal is it?", "a cat") in (
    "a dog", "a rabbit", "a hamster", "a parrot"
  )  # fmt: skip
  assert short("What color is it?", "orange", "red") == "red"
  assert short("Where is it?", "at home", "in Paris") == "in Paris"
  assert short("Where is it?", "at home") is None


def test_question_forms():
  assert question_form("<image>\nWhat color is the cat?") == "what color is"
  assert question_form("How many cats are there?") == "how many"
