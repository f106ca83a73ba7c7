"""Checkpoints of a run while it trains: asynchronous, atomic, resumable."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from povid_jax import errors
from povid_jax.checkpoints.restore import nest, unnest
from povid_jax.errors import UserError
from povid_jax.training.step import State

# tensorstore and asyncio raise these for a disk that is full or cannot be
# written
_NOT_SAVED = (OSError, ValueError, RuntimeError)


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
    if keep < 1 or best_mode not in ("min", "max"):
      raise UserError(
        "config.checkpoint: want keep >= 1 and best_mode min or max, got "
        f"{keep} and {best_mode!r}"
      )
    policies: list[Any] = [managers.LatestN(keep)]
    if best:
      policies.append(
        managers.BestN(
          get_metric_fn=lambda metrics: metrics[best],
          reverse=best_mode == "min",
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    errors.hush_orbax()
    self._best = best
    self._saving: int | None = None  # the step of the last save begun
    self._manager = ocp.CheckpointManager(
      (workdir / "checkpoints").absolute(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=managers.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=True,
        best_fn=(lambda metrics: metrics[best]) if best else None,
        best_mode=best_mode,
      ),
    )

  @property
  def latest(self) -> int | None:
    return self._manager.latest_step()

  def save(self, state: State, metrics: Mapping[str, float]) -> None:
    """Starts saving; returns as soon as the arrays are copied.

    Args:
      state: with which the next step starts.
      metrics: of the step before; the best is kept by one of them.

    Raises:
      UserError: the disk is full or cannot be written; checkpoints saved
        before are whole.
    """
    step = int(state.step)
    if step == self._manager.latest_step():
      return
    known = self._best in metrics
    self.wait()  # Orbax would, and its error would seem to be of this save
    self._saving = step
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(
          params=ocp.args.StandardSave(nest(state.params)),
          optimizer=ocp.args.StandardSave(_as_list(state.opt_state)),
          data=ocp.args.JsonSave({"next_step": step}),
        ),
        metrics={self._best: metrics[self._best]} if known else None,
      )
    except _NOT_SAVED as error:
      raise _save_error(step, error) from error

  def wait(self) -> None:
    """Until the last save is on disk; errors as in `save`."""
    try:
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
    except _NOT_SAVED as error:
      raise _save_error(self._saving, error) from error

  def restore(self, state: State) -> State | None:
    """The newest saved state; None where nothing is saved.

    Args:
      state: arrays of the right shapes and shardings; its values are not
        used.

    Raises:
      UserError: what is saved has other names or shapes.
    """
    step = self._manager.latest_step()
    if step is None:
      return None
    shape = lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=x.sharding
    )
    optimizer = jax.tree.map(shape, state.opt_state)
    try:
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          params=ocp.args.StandardRestore(
            nest(jax.tree.map(shape, state.params))
          ),
          optimizer=ocp.args.StandardRestore(_as_list(optimizer)),
        ),
      )
    except (ValueError, OSError, KeyError, TypeError) as error:
      errors.hush_reads()
      reason = str(error).splitlines()[0]
      raise UserError(
        f"checkpoint {step} of this run does not fit its config ({reason}); "
        "use another workdir"
      ) from error
    opt_state = jax.tree.unflatten(
      jax.tree.structure(state.opt_state),
      [leaf["leaf"] for leaf in restored["optimizer"]],
    )
    params = dict(sorted(unnest(restored["params"]).items()))
    number = jax.device_put(jax.numpy.int32(step), state.step.sharding)
    return State(number, params, opt_state)

  def close(self) -> None:
    """Ends what is being saved; a save that fails now was said before."""
    with contextlib.suppress(*_NOT_SAVED):
      self._manager.close()


def _as_list(tree: Any) -> list[dict[str, Any]]:
  """Leaves in order: Orbax need not know optax's classes."""
  return [{"leaf": leaf} for leaf in jax.tree.leaves(tree)]


def _save_error(step: int | None, error: Exception) -> UserError:
  reason = str(error).splitlines()[0] if str(error) else repr(error)
  return UserError(
    f"checkpoint at step {step} could not be saved ({reason}); the one before "
    "it is whole. Free some room and run the same command again"
  )
