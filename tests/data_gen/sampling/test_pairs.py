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


BEFORE = (["a dog", "the dog", "dog car"], ["sentence", "stop", "stop"])
OVER = [
  # an inventing last sentence, where the answer could be over
  (["a cup", "a bus"], ["stop", "stop"], {"dog"}, (1, 1)),
  # it goes on to name what is there: to be over would name less
  (["bus and cat"], ["stop"], {"dog"}, None),
  (["bus and cat"], ["stop"], {"dog", "cat"}, (1, 0)),
  # it does not end, or nobody can be sure of it
  (["a bus"], ["sentence"], {"dog"}, None),
  (["bus cup"], ["stop"], {"dog"}, None),
]


@pytest.mark.parametrize(("texts", "ends", "named", "want"), OVER)
def test_an_answer_that_is_over_and_one_that_goes_on(texts, ends, named, want):
  before = _judged(*BEFORE)
  found = pairs.over(before, before[0], _judged(texts, ends), named)
  numbers = found and tuple(j.candidate.number for j in found)
  assert numbers == want


def test_an_answer_that_never_ends_there_is_not_over():
  before = _judged(["a dog", "the dog"], ["sentence", "sentence"])
  assert pairs.over(before, before[0], _judged(["bus"]), {"dog"}) is None
  # the end of an answer that names less than the one that went on
  before = _judged(["a dog", "grass"], ["sentence", "stop"])
  assert pairs.over(before, before[0], _judged(["bus"]), {"dog"}) is None


def test_order_of_candidates_does_not_matter():
  judged = _judged(["the dog", "the dog car", "a dog here", "a dog bus"])
  rules = Rules(most=3)
  assert pairs.pick(judged[::-1], rules) == pairs.pick(judged, rules)
