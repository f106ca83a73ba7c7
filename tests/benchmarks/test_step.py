"""The step benchmark, dry: every case runs and gives numbers of its kind."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import released_step, step, step_cases
from povid_jax.abstract import Shape
from povid_jax.errors import UserError
from povid_jax.models.presets import preset

# not yet asked on a quiet machine: out of the fast suite until it was
pytestmark = pytest.mark.slow

SHAPE = Shape(prefix=12, branch=6)
FIELDS = {
  "objective.name": "povid",
  "batch_size": 2,
  "dtype": "float32",
  "attention": "xla",
  "lora.rank": 4,
}


def test_sweep_of_a_preset(tmp_path):
  """The command for a GPU with 7B's shapes, at test size on this CPU."""
  out = tmp_path / "sweep.json"
  arguments = ["--preset=test", "--batches=1,2", "--prefix=12", "--branch=6"]
  arguments += ["--rank=4", "--repeats=1", f"--json={out}"]
  assert step.main(arguments) == 0
  result = json.loads(out.read_text())
  assert result["matmul_flops"] > 0
  cases = [(r["stage"], r["attention"], r["batch"]) for r in result["rows"]]
  assert cases == [
    (stage, "xla", batch)
    for stage in ("stage 1", "stage 2")
    for batch in (1, 2)
  ]
  for row in result["rows"]:
    assert row["pairs_per_second"] == pytest.approx(
      row["batch"] / row["seconds"]
    )
    assert row["bytes"] > 0 and row["mfu"] > 0


def test_a_device_that_is_not_there():
  with pytest.raises(UserError, match="--device=gpu: JAX runs on cpu"):
    step.main(["--preset=test", "--device=gpu"])


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
  # an adapter that does something, or policy and reference are the same
  shift = lambda state: state._replace(
    params=jax.tree.map(lambda x: x + 0.2, state.params)
  )
  losses = []
  for case in (ours, released):
    _, metrics = case.run(shift(case.state), case.frozen, case.batch)
    losses.append(metrics["loss"])
  assert abs(float(losses[0]) - np.log(2)) > 1e-3
  np.testing.assert_allclose(*losses, rtol=1e-5)


def test_random_pairs_begin_with_their_picture():
  case = step_cases.ours("ours", preset("test"), SHAPE, FIELDS)
  tokens = preset("test").image_tokens
  ids = np.asarray(case.batch["prefix_ids"])[0]
  assert (ids[:, :tokens] == step_cases.IMAGE_TOKEN).all()
  assert (ids[:, tokens:] >= 0).all()
  assert (np.asarray(case.batch["prefix_len"]) == SHAPE.prefix).all()
  assert case.batch["images"].dtype == jnp.uint8


def test_scoring_head_takes_an_eighth_of_the_naive_ones_memory():
  found = step.head_memory()
  assert found["naive"] >= 8 * found["chunked"]
  assert found["chunked"] < found["scored"] < found["naive"]
