"""Which candidates make a pair, case by case."""

import dataclasses

import pytest

from data_gen.sampling import pairs
from data_gen.sampling.pairs import Candidate, Rules

TRUTH = {"dog": True, "cat": True, "car": False, "bus": False, "cup": None}


def _judged(texts, ends=None):
  made = []
  for number, text in enumerate(texts):
    end = ends[number] if ends else "stop"
    objects = [w for w in dict.fromkeys(text.split()) if w in TRUTH]
    made.append(pairs.judge(Candidate(number, text, end), objects, TRUTH))
  return made


def _picked(texts, ends=None, **rules):
  found = pairs.pick(_judged(texts, ends), Rules(**rules))
  return [(a.candidate.number, b.candidate.number) for a, b in found]


CASES = [
  # the pair that parts last, whatever comes first
  (["the dog here", "the dog and car", "the dog and cat"], [(2, 1)]),
  # the chosen one must not name less of the picture
  (["a b c d", "dog b c car"], []),
  (["dog b c d", "dog b c car"], [(0, 1)]),
  # what nobody can be sure of makes no pair, on either side
  (["dog cup", "dog car"], []),
  (["dog here", "dog car cup"], []),
  # of like length
  (["dog is here on the big lawn", "dog car"], []),
  # nothing invented, nothing clean, nothing at all
  (["dog", "cat"], []),
  (["car", "bus"], []),
  ([], []),
  # equal beginnings: the lower numbers
  (["dog x", "dog y", "dog car", "dog bus"], [(0, 2)]),
]


@pytest.mark.parametrize(("texts", "want"), CASES)
def test_best_pair(texts, want):
  assert _picked(texts) == want


def test_answers_that_were_cut_off_are_of_no_use():
  texts = ["dog here", "dog car"]
  assert _picked(texts, ["stop", "sentence"]) == [(0, 1)]
  assert _picked(texts, ["length", "stop"]) == []
  assert _picked(texts, ["stop", "length"]) == []


def test_several_pairs_reject_different_texts():
  texts = ["dog here", "dog car", "dog car", "dog bus"]
  assert _picked(texts, most=9) == [(0, 1), (0, 3)]
  assert _picked(texts, most=1) == [(0, 1)]


def test_length_ratio_is_a_bound():
  texts = ["dog", "dog car"]
  assert _picked(texts, ratio=1.9) == []
  assert _picked(texts, ratio=2.0) == [(0, 1)]


def test_the_answer_goes_on_with_what_names_most_that_is_new():
  judged = _judged(["here", "dog", "dog cat", "dog cat cup", "dog cat car"])
  assert pairs.go_on(judged, set()).candidate.number == 2
  assert pairs.go_on(judged, {"dog", "cat"}).candidate.number == 0
  assert pairs.go_on(judged[3:], set()) is None
  cut = [
    dataclasses.replace(
      j, candidate=dataclasses.replace(j.candidate, end="length")
    )
    for j in judged
  ]
  assert pairs.go_on(cut, set()) is None


def test_order_of_candidates_does_not_matter():
  judged = _judged(["the dog", "the dog car", "a dog here", "a dog bus"])
  rules = Rules(most=3)
  assert pairs.pick(judged[::-1], rules) == pairs.pick(judged, rules)
