"""Checkpoints of a run while it trains: asynchronous, atomic, resumable."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from povid_jax import errors
from povid_jax.checkpoints.arrays import unnest
from povid_jax.checkpoints.stream import nest
from povid_jax.errors import UserError
from povid_jax.training.step import State

# tensorstore and asyncio raise these for a disk that is full or cannot be
# written
_NOT_SAVED = (OSError, ValueError, RuntimeError)


class _Keep(managers.PreservationPolicy):
  """Keeps the newest checkpoints, and the best by a metric.

  Orbax's own policy takes the metric when the step is saved; here a step is
  saved before it is evaluated, and rated after.
  """

  def __init__(self, keep: int, best_mode: str):
    self._keep, self._pick = keep, min if best_mode == "min" else max
    self.ratings: dict[int, float] = {}

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> Sequence[bool]:
    del context
    kept = set(self.kept([checkpoint.step for checkpoint in checkpoints]))
    return [checkpoint.step in kept for checkpoint in checkpoints]

  def kept(self, steps: Sequence[int]) -> list[int]:
    rated = [step for step in steps if step in self.ratings]
    best = [self._pick(rated, key=self.ratings.__getitem__)] if rated else []
    return [*steps[-self._keep :], *best]


class RunCheckpoints:
  """WORKDIR/checkpoints/<step>: parameters, optimizer, data position.

  The position is the step itself, since a plan gives any step directly: a run
  may continue with another number of hosts, devices or reading workers.

  Args:
    workdir: the run directory.
    keep: how many of the newest are kept.
    best: a metric whose best step is kept too, or "".
    best_mode: min | max.
  """

  def __init__(self, workdir: Path, keep: int, best: str, best_mode: str):
    errors.hush_orbax()
    self._best = best
    self._saving: int | None = None  # the step of the last save begun
    self._keep = _Keep(keep, best_mode)
    self._manager = ocp.CheckpointManager(
      (workdir / "checkpoints").absolute(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self._keep, cleanup_tmp_directories=True
      ),
    )

  @property
  def latest(self) -> int | None:
    return self._manager.latest_step()

  def save(self, state: State, metrics: Mapping[str, float]) -> None:
    """Starts saving; returns as soon as the arrays are copied.

    Args:
      state: with which the next step starts.
      metrics: of the step before; see `rate`.

    Raises:
      UserError: the disk is full or cannot be written; earlier checkpoints stay
        complete.
    """
    step = int(state.step)
    if step == self._manager.latest_step():
      return
    self.rate(step, metrics)
    self.wait()  # Orbax would, and its error would seem to be of this save
    self._saving = step
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(
          params=ocp.args.StandardSave(nest(state.params)),
          optimizer=ocp.args.StandardSave(_as_list(_beside(state))),
          data=ocp.args.JsonSave({"next_step": step}),
        ),
      )
    except _NOT_SAVED as error:
      raise _save_error(step, error) from error

  def rate(self, step: int, metrics: Mapping[str, float]) -> None:
    """Records the metrics of a saved step; the best step is kept beside the
    newest.
    """
    value = metrics.get(self._best)
    if value is not None and math.isfinite(value):
      self._keep.ratings[step] = value

  def prune(self) -> None:
    """Removes checkpoints that later ratings made unnecessary; call it after
    `wait`.
    """
    steps = sorted(self._manager.all_steps())
    for step in set(steps) - set(self._keep.kept(steps)):
      self._manager.delete(step)

  def wait(self) -> None:
    """Waits until the last save is on disk; raises the errors of `save`."""
    try:
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
    except _NOT_SAVED as error:
      raise _save_error(self._saving, error) from error

  def restore(self, state: State, skip_damaged: bool = False) -> State | None:
    """The newest saved state; None where nothing is saved.

    Args:
      state: arrays of the right shapes and shardings; its values are not
        used.
      skip_damaged: whether a checkpoint that cannot be read is moved to
        WORKDIR/damaged, and the one before it taken.

    Raises:
      UserError: the newest cannot be read or has other names or shapes; the
        message names the newest one that is complete.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    failed: dict[int, str] = {}
    for step in steps:
      try:
        found = self._restore(step, state)
      except (ValueError, OSError, KeyError, TypeError) as error:
        errors.hush_reads()
        failed[step] = errors.first_line(error)
        continue
      if failed and not skip_damaged:
        raise UserError(
          f"checkpoint {steps[0]} of this run is damaged "
          f"({failed[steps[0]]}). Checkpoint {step} before it is complete: "
          "run the same command with --skip-damaged to move the damaged one "
          "away and continue from there"
        )
      for damaged in failed:
        self._set_aside(damaged)
      return found
    if failed:
      raise UserError(
        f"checkpoint {steps[0]} of this run does not fit this config, or is "
        f"damaged ({failed[steps[0]]}), and so is every earlier one; use "
        "another --workdir"
      )
    return None

  def _set_aside(self, step: int) -> None:
    """Moves a checkpoint to WORKDIR/damaged; nothing is deleted."""
    if jax.process_index() == 0:
      source = Path(self._manager.directory) / str(step)
      number, target = 0, source.parents[1] / "damaged" / str(step)
      target.parent.mkdir(exist_ok=True)
      while target.exists():
        number += 1
        target = target.with_name(f"{step}-{number}")
      source.rename(target)
      print(
        f"checkpoint {step} is damaged; it was moved to {target}", flush=True
      )
    self._manager.reload()

  def _restore(self, step: int, state: State) -> State:
    shape = lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=x.sharding
    )
    optimizer = jax.tree.map(shape, _beside(state))
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(
          nest(jax.tree.map(shape, state.params))
        ),
        optimizer=ocp.args.StandardRestore(_as_list(optimizer)),
      ),
    )
    opt_state, carried = jax.tree.unflatten(
      jax.tree.structure(_beside(state)),
      [leaf["leaf"] for leaf in restored["optimizer"]],
    )
    params = dict(sorted(unnest(restored["params"]).items()))
    number = jax.device_put(jax.numpy.int32(step), state.step.sharding)
    return State(number, params, opt_state, carried)

  def close(self) -> None:
    """Finishes the running save; its failure has already been reported."""
    with contextlib.suppress(*_NOT_SAVED):
      self._manager.close()


def _beside(state: State) -> tuple[Any, Any]:
  """The parts of a state other than parameters."""
  return state.opt_state, state.carried


def _as_list(tree: Any) -> list[dict[str, Any]]:
  """Leaves in order: Orbax need not know optax's classes."""
  return [{"leaf": leaf} for leaf in jax.tree.leaves(tree)]


def _save_error(step: int | None, error: Exception) -> UserError:
  reason = errors.first_line(error)
  return UserError(
    f"checkpoint at step {step} could not be saved ({reason}); the checkpoint "
    "before it is complete. Free some disk space and run the same command "
    "again"
  )
