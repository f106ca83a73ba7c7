"""What a run keeps, restores and refuses to restore."""

import contextlib
import json
import logging
import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from povid_jax import errors
from povid_jax.checkpoints import restore
from povid_jax.errors import UserError
from povid_jax.training import optim
from povid_jax.training.run_checkpoints import RunCheckpoints
from povid_jax.training.step import State


def _state(step, shape=(3, 2), name="decoder/a/lora_a"):
  params = {
    name: jnp.full(shape, float(step)),
    "projector/linear_1/bias": jnp.arange(2.0) + step,
  }
  transform, _ = optim.make(learning_rate=0.1, total_steps=9, paths=params)
  optimizer = optim.finite_guard(transform)
  opt_state = jax.tree.map(
    lambda x: x + jnp.asarray(step, x.dtype) if x.dtype != bool else x,
    optimizer.init(params),
  )
  return State(jnp.int32(step), params, opt_state)


def _open(workdir, keep=1, best="", mode="min"):
  return RunCheckpoints(workdir, keep, best, mode)


def _steps(workdir):
  return [int(p.name) for p in sorted((workdir / "checkpoints").iterdir())]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  run = _open(workdir, keep=2)
  assert run.restore(_state(0)) is None
  for step in (1, 2, 3):
    run.save(_state(step), {})
  run.wait()
  run.close()
  return workdir


def test_the_newest_are_kept_and_restored(saved):
  assert _steps(saved) == [2, 3] == restore.steps_of(saved)
  run = _open(saved)
  assert run.latest == 3
  restored, want = run.restore(_state(0)), _state(3)
  assert jax.tree.structure(restored) == jax.tree.structure(want)
  for got, leaf in zip(
    jax.tree.leaves(restored), jax.tree.leaves(want), strict=True
  ):
    assert got.dtype == leaf.dtype
    np.testing.assert_array_equal(got, leaf)
  position = json.loads((saved / "checkpoints/3/data/metadata").read_text())
  assert position == {"next_step": 3}
  run.close()


def test_what_an_objective_carries_is_kept_to_the_bit(tmp_path):
  """A running mean goes on where it was; checkpoints without one still open."""
  carried = {"shift": jnp.float32(1 / 3), "updates": jnp.float32(7)}
  with contextlib.closing(_open(tmp_path / "a")) as saves:
    saves.save(_state(4)._replace(carried=carried), {})
    saves.wait()
    zeros = jax.tree.map(jnp.zeros_like, carried)
    back = saves.restore(_state(0)._replace(carried=zeros))
  assert {k: float(v) for k, v in back.carried.items()} == {
    "shift": float(np.float32(1 / 3)),
    "updates": 7.0,
  }
  with contextlib.closing(_open(tmp_path / "b")) as saves:
    saves.save(_state(4), {})
    saves.wait()
    assert saves.restore(_state(0)).carried == {}


def test_one_step_is_saved_once(saved, tmp_path):
  run = _open(tmp_path)
  run.save(_state(4), {})
  run.save(_state(4), {"loss": 1.0})
  run.wait()
  run.close()
  assert _steps(tmp_path) == [4]


@pytest.mark.parametrize(("mode", "kept"), [("min", [2, 5]), ("max", [3, 5])])
def test_the_best_is_kept_beside_the_newest(mode, kept, tmp_path):
  run = _open(tmp_path, 1, "pope/accuracy", mode)
  for step, score in ((1, 0.5), (2, 0.2), (3, 0.9), (4, None), (5, 0.4)):
    metrics = {} if score is None else {"pope/accuracy": score, "loss": 1.0}
    run.save(_state(step), metrics)
  run.wait()
  run.close()
  assert _steps(tmp_path) == kept


def test_other_shapes_and_names_are_refused(saved):
  run = _open(saved)
  for other in (_state(0, shape=(4, 2)), _state(0, name="decoder/b/lora_a")):
    with pytest.raises(UserError, match="checkpoint 3 .*does not fit") as e:
      run.restore(other)
    assert "\n" not in str(e.value)
  run.close()


def test_what_is_not_whole_is_not_there(saved, tmp_path):
  """A folder that a killed save left behind is neither used nor kept."""
  run = _open(tmp_path)
  run.save(_state(1), {})
  run.wait()
  run.close()
  torn = tmp_path / "checkpoints/2.orbax-checkpoint-tmp"
  (torn / "params").mkdir(parents=True)
  assert restore.steps_of(tmp_path) == [1]
  run = _open(tmp_path)
  assert run.latest == 1 and int(run.restore(_state(0)).step) == 1
  run.save(_state(2), {})
  run.wait()
  run.close()
  assert _steps(tmp_path) == [2]


# what else was being written is left behind when one write fails
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_without_room(tmp_path):
  """No file may be longer than a line: what a full disk does to a save."""
  run = _open(tmp_path, keep=2)
  run.save(_state(1), {})
  run.wait()
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (80, before[1]))
  try:
    with pytest.raises(UserError, match="step 2 could not .* is complete") as e:
      run.save(_state(2), {})
      run.wait()
    run.close()  # the background commit ends before the limit is lifted
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert "\n" not in str(e.value)
  assert restore.steps_of(tmp_path) == [1]
  run = _open(tmp_path, keep=2)
  assert int(run.restore(_state(0)).step) == 1
  run.save(_state(2), {})
  run.wait()
  run.close()
  assert _steps(tmp_path) == [1, 2]


def test_what_asyncio_says_of_writes_left_behind_is_not_shown(capsys):
  """A full disk fails many writes at once; one line is enough."""
  errors.hush_left_behind()
  before = sys.unraisablehook
  errors.hush_left_behind()
  assert sys.unraisablehook is before
  handler = logging.StreamHandler(sys.stderr)
  logger = logging.getLogger("asyncio")
  logger.addHandler(handler)
  try:
    logger.error("_GatheringFuture exception was never retrieved\nfuture: x")
    logger.error("something else")
  finally:
    logger.removeHandler(handler)
  assert capsys.readouterr().err == "something else\n"


def test_a_step_is_saved_before_it_is_rated(tmp_path):
  """An evaluation comes after the save, and decides what is kept."""
  run = _open(tmp_path, 1, "pope/f1", "max")
  for step, score in ((1, 0.5), (2, 0.9), (3, 0.4)):
    run.save(_state(step), {"loss": 1.0})
    run.wait()
    run.rate(step, {"pope/f1": score})
  run.prune()
  assert _steps(tmp_path) == [2, 3]
  run.rate(3, {"pope/f1": 0.95})
  run.prune()
  run.close()
  assert _steps(tmp_path) == [3]


def test_a_damaged_one_is_set_aside_where_that_is_asked(tmp_path):
  run = _open(tmp_path, keep=3)
  for step in (1, 2, 3):
    run.save(_state(step), {})
  run.wait()
  run.close()
  (tmp_path / "checkpoints/3/params/manifest.ocdbt").write_bytes(b"")
  run = _open(tmp_path, keep=3)
  wanted = "checkpoint 3 .*damaged.*2 before it is complete.*--skip-damaged"
  with pytest.raises(UserError, match=wanted) as caught:
    run.restore(_state(0))
  assert "\n" not in str(caught.value)
  assert int(run.restore(_state(0), skip_damaged=True).step) == 2
  assert _steps(tmp_path) == [1, 2]
  assert (tmp_path / "damaged/3/params").is_dir()
  run.save(_state(3), {})  # its place is free
  run.wait()
  run.close()
  assert _steps(tmp_path) == [1, 2, 3]
