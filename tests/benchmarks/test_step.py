"""The step benchmark, dry: every case runs and gives numbers of its kind."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
  backend_check,
  released_step,
  step,
  step_cases,
  step_rows,
)
from povid_jax.errors import UserError
from povid_jax.models import backends
from povid_jax.models.presets import preset
from povid_jax.plan.abstract import Shape

SHAPE = Shape(prefix=12, branch=6)
FIELDS = {
  "objective.name": "povid",
  "batch_size": 2,
  "dtype": "float32",
  "attention": "xla",
  "lora.rank": 4,
}


def _sweep(out, *more):
  arguments = ["--preset=test", "--prefix=12", "--branch=6", "--rank=4"]
  assert step.main([*arguments, "--repeats=1", f"--json={out}", *more]) == 0
  return json.loads(out.read_text())


@pytest.mark.slow
def test_sweep_of_a_preset(tmp_path):
  """The command for a GPU with 7B's shapes, at test size on this CPU."""
  result = _sweep(
    tmp_path / "sweep.json",
    "--batches=1,2",
    "--only=dots .*online",
    f"--details={tmp_path / 'details'}",
  )
  assert result["matmul_flops"] > 0
  cases = [(r["stage"], r["work"], r["batch"]) for r in result["rows"]]
  assert cases == [
    *[(s, "shared", n) for n in (2, 1) for s in ("stage 2", "stage 1")],
    ("stage 2", "released", 1),
    ("stage 2", "plain", 1),
  ]
  for row in result["rows"]:
    assert row["pairs_per_second"] == pytest.approx(
      row["batch"] / row["seconds"]
    )
    assert row["bytes"] > 0 and row["mfu"] > 0
  assert "HloModule" in (tmp_path / "details/step.hlo.txt").read_text()


def test_a_budget_that_is_spent(tmp_path):
  """What was not run is said; nothing is waited for."""
  result = _sweep(tmp_path / "out.json", "--batches=1", "--budget=0")
  assert {row["error"] for row in result["rows"]} == {
    "not run: the budget is spent"
  }


def test_what_a_sweep_is_made_of():
  first, eight, second, ways, other = step_rows.waves(
    [1, 4, 8, 16], ["cudnn", "xla"]
  )
  assert {(w.stage, w.batch, w.matmul) for w in eight} == {
    ("stage 2", 16, "int8"),
    ("stage 2", 16, "fp8"),
  }
  assert {(w.attention, w.batch) for w in first} == {
    ("cudnn", 16),
    ("cudnn", 8),
  }
  assert {w.work for w in first + second + other} == {"shared"}
  assert {(w.work, w.batch) for w in ways} == {
    ("released", 1),
    ("plain", 1),
    ("shared", 1),
    ("plain", 16),
  }
  for backend, wave in (("cudnn", first + second), ("xla", other)):
    found = {(w.stage, w.batch) for w in wave if w.attention == backend}
    assert found == {
      (s, b) for s in ("stage 1", "stage 2") for b in (1, 4, 8, 16)
    }
  rows = [*first, *eight, *second, *ways, *other]
  assert len(set(rows)) == len(rows)


@pytest.mark.slow
def test_backend_check_sees_a_wrong_mask(monkeypatch):
  """The flash calls, computed by XLA, pass; with one key too many they fail."""
  variant = "grouped heads, sliding window"
  monkeypatch.setattr(
    backend_check, "VARIANTS", {variant: backend_check.VARIANTS[variant]}
  )
  monkeypatch.setattr(backends.cudnn, "__defaults__", ("xla",))
  assert backend_check.check("cudnn")[variant]["passes"]
  whole = backends.branch_mask
  monkeypatch.setattr(
    backends, "branch_mask", lambda length, *rest: whole(length + 1, *rest)
  )
  assert not backend_check.check("cudnn")[variant]["passes"]


def test_a_device_that_is_not_there():
  with pytest.raises(UserError, match="--device=gpu: JAX runs on cpu"):
    step.main(["--preset=test", "--device=gpu"])


@pytest.mark.slow
def test_released_work_is_the_same_loss():
  """Not only the same amount of work: the same numbers come out."""
  described = preset("test")
  ours = step_cases.ours("ours", described, SHAPE, FIELDS)
  released = step_cases.other(
    "released",
    described,
    SHAPE,
    FIELDS,
    released_step.make,
    released_step.repeat_images,
  )
  # the benchmark's small weights give all tokens the same probability, and
  # then any log-ratio is zero; these say something, the adapters too
  scaled = lambda name, x: 10 * x + 1.0 * name.endswith("scale")
  every = lambda tree: {k: scaled(k, x) for k, x in tree.items()}
  losses = []
  for case in (ours, released):
    state = case.state._replace(params=every(case.state.params))
    frozen = case.frozen._replace(params=every(case.frozen.params))
    _, metrics = case.run(state, frozen, case.batch)
    losses.append(metrics["loss"])
  assert abs(float(losses[0]) - np.log(2)) > 1e-2
  np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
def test_random_pairs_begin_with_their_picture():
  case = step_cases.ours("ours", preset("test"), SHAPE, FIELDS)
  tokens = preset("test").image_tokens
  ids = np.asarray(case.batch.prefix_ids)[0]
  assert (ids[:, :tokens] == step_cases.IMAGE_TOKEN).all()
  assert (ids[:, tokens:] >= 0).all()
  assert (np.asarray(case.batch.prefix_len) == SHAPE.prefix).all()
  assert case.batch.images.dtype == jnp.uint8


def test_scoring_head_takes_an_eighth_of_the_naive_ones_memory(
  tmp_path, capsys
):
  out = tmp_path / "head.json"
  assert step.main(["--head", f"--json={out}"]) == 0
  found = json.loads(out.read_text())["head"]
  assert found["naive"] >= 8 * found["chunked"]
  assert found["chunked"] < found["scored"] < found["naive"]
  assert "naive over chunked" in capsys.readouterr().out


@pytest.mark.slow
def test_several_pairs_of_one_question():
  """All cases run, on as many pairs, and the answers of a row differ."""
  result = step.grouped(preset("test"), SHAPE, 1, questions=2, pairs=3)
  assert set(result["seconds"]) == {
    "a row each",
    "3 a row, one chosen",
    "3 a row, 3 chosen",
  }
  assert all(value > 0 for value in result["ratios"].values())
  ids = jnp.arange(2 * 2 * 6).reshape(2, 2, 6)
  plain = step_cases.Batch(ids[0], ids[0, 0][:2], ids, ids > 0, None)
  batch = step_cases.with_pairs(plain, 3)
  assert batch.branch_ids.shape == batch.loss_mask.shape == (2, 4, 6)
  np.testing.assert_array_equal(batch.branch_ids[:, :2], ids)
  assert len({tuple(row.tolist()) for row in batch.branch_ids[0]}) == 4
  batch = step_cases.with_pairs(plain, 3, chosen=3)
  assert batch.branch_ids.shape == (2, 6, 6) and batch.num_chosen == 3
  np.testing.assert_array_equal(batch.chosen_of, [[0, 1, 2]] * 2)


@pytest.mark.slow
def test_a_picture_in_tiles():
  """The row at LLaVA-NeXT's lengths: its shapes, and both ways to do it."""
  shape = Shape(branch=6)
  assert shape.room(step.NEXT) == (5, 2340, 1)
  result = step.tiled(preset("test-next"), shape, 1)
  assert set(result["seconds"]) == {"shared, 5 tiles", "plain, 5 tiles"}
  assert all(value > 0 for value in result["ratios"].values())
