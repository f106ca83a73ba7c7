"""CHAIRi at equal recall, by hand."""

import json

import pytest

from povid_jax.errors import UserError
from povid_jax.eval.matched_recall import match, verdicts


def _folder(path, answers):
  """`answers`: unit -> (mentions as (object, hallucinated), true objects)."""
  path.mkdir()
  rows = [
    {
      "benchmark": "chair",
      "unit": unit,
      "objects": truth,
      "mentions": [{"object": o, "hallucinated": h} for o, h in said],
    }
    for unit, (said, truth) in answers.items()
  ]
  lines = [json.dumps(row) for row in rows]
  (path / "verdicts.jsonl").write_text("\n".join(lines))
  return path


def test_saying_less_alone_gains_nothing(tmp_path):
  cat, dog, fork = ("cat", False), ("dog", False), ("fork", True)
  truth = ["cat", "dog"]
  talks = {str(i): ([cat, fork, dog], truth) for i in range(8)}
  a = _folder(tmp_path / "a", talks)
  b = _folder(tmp_path / "b", {u: ([cat], truth) for u in talks})
  curve, found = match([(a, b)], resamples=50)
  assert curve == [
    (1, 0.5, 0.0),
    (2, 0.5, 0.5),
    (3, 1.0, pytest.approx(1 / 3)),
  ]
  chair = found.chair
  assert (found.recall, chair.a, chair.b) == (0.5, 0.0, 0.0)
  assert (chair.low, chair.high, chair.p) == (0.0, 0.0, 1.0)


def test_a_better_model_wins_at_its_recall(tmp_path):
  cat, fork = ("cat", False), ("fork", True)
  a = _folder(tmp_path / "a", {"1": ([fork, cat], ["cat"])})
  b = _folder(tmp_path / "b", {"1": ([cat], ["cat"])})
  _, found = match([(a, b)], resamples=50)
  chair = found.chair
  assert (found.recall, chair.a, chair.b) == (1.0, 0.5, 0.0)
  assert chair.high < 0


def test_other_pictures_and_no_verdicts_are_refused(tmp_path):
  a = _folder(tmp_path / "a", {"1": ([], ["cat"])})
  b = _folder(tmp_path / "b", {"2": ([], ["cat"])})
  with pytest.raises(UserError, match="different pictures"):
    match([(a, b)])
  with pytest.raises(UserError, match=r"verdicts\.jsonl"):
    verdicts(tmp_path)
