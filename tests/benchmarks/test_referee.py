"""The toy's referee: its commands, and the judge that errs."""

import json
from pathlib import Path

import pytest

from benchmarks import referee
from povid_jax.errors import UserError


def test_each_step_comes_after_what_it_needs():
  over: set[str] = set()
  for step in referee.steps(Path("out"), 0, list(referee.RECIPES), test=True):
    assert over.issuperset(step.needs), step.name
    over.add(step.name)
  assert {f"chair-{name}-balanced" for name in referee.RECIPES} <= over


def test_a_second_round_brings_the_first_one():
  names = [s.name for s in referee.steps(Path("out"), 0, ["round2"], False)]
  assert names.index("train-own") < names.index("sample-own_again")


def test_the_erring_judge_errs_about_a_quarter(tmp_path):
  truth = {
    "categories": [{"id": n} for n in range(12)],
    "annotations": [
      {"image_id": i, "category_id": (i + n) % 12}
      for i in range(300)
      for n in range(3)
    ],
  }
  source, target = tmp_path / "truth.json", tmp_path / "erring.json"
  source.write_text(json.dumps(truth))
  referee.err(source, target, seed=0)
  pairs = lambda document: {
    (row["image_id"], row["category_id"]) for row in document["annotations"]
  }
  right, believed = pairs(truth), pairs(json.loads(target.read_text()))
  assert len(believed) == len(right)  # a wrong one for each that it forgets
  assert 0.2 < len(right - believed) / len(right) < 0.3
  referee.err(source, target, seed=0)
  assert pairs(json.loads(target.read_text())) == believed


def test_seeds_are_shown_beside_their_mean(tmp_path, capsys):
  for seed, value in enumerate((0.05, 0.07)):
    folder = tmp_path / str(seed) / "referee" / "own" / "val"
    folder.mkdir(parents=True)
    scores = dict.fromkeys(referee.COLUMNS, value) | {"length": 28.0}
    rows = [{"metric": k, "value": v} for k, v in scores.items()]
    (folder / "results.json").write_text(json.dumps({"results": rows}))
  referee.table([tmp_path / "0", tmp_path / "1"])
  assert "| own | 6.0 (5.0 7.0) |" in capsys.readouterr().out


def test_an_unknown_recipe_is_named():
  with pytest.raises(UserError, match="no recipe x"):
    referee.main(["--recipes=own,x"])
