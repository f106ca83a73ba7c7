"""Attributes, numbers, relations, and answers to short questions."""

import random

import pytest

from data_gen.rules import objects, replies
from data_gen.rules.changes import apply
from data_gen.rules.corpus import (
  Answer,
  learn,
  question_form,
)
from data_gen.rules.scene import scene
from tests.data_gen.rules.edits import LEXICON, attribute, relation, replaced  # noqa: E402


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
