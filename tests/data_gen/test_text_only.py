"""Rejected answers that language alone gives away, and others."""

import random

import pytest

from data_gen import text_only

THINGS = ("dog", "cat", "cup", "fork", "bench", "kite", "lamp", "boat")


def pairs(style: str, count: int = 200):
  rng = random.Random(0)
  made = []
  for i in range(count):
    chosen, rejected = rng.sample(THINGS, 2)
    wrong = f"A {rejected} is here{style}."
    made.append((str(i), f"A {chosen} is here.", wrong))
  return made


def test_a_style_is_found_and_sight_is_not():
  found, error = text_only.accuracy(pairs(" nearby"))
  assert found == 1.0
  found, error = text_only.accuracy(pairs(""))
  assert abs(found - 0.5) < 4 * error and error < 0.03


def test_pairs_of_one_picture_do_not_learn_from_each_other():
  # Each picture has a word of its own that its rejected answers hold.
  own = [(str(i % 20), "A dog.", f"A dog{i % 20}.") for i in range(200)]
  found, _ = text_only.accuracy(own)
  assert found < 0.8  # 1.0 if the folds mixed the pictures


def test_equal_answers_say_nothing():
  assert text_only.accuracy([(str(i), "A dog.", "A dog.") for i in range(50)])[
    0
  ] == pytest.approx(0.5)
  assert text_only.accuracy(pairs("", 19)) is None
