"""Trains one stage of POVID, or any other run that a config describes.

  python -m povid_jax.train --config=configs/povid_stage1.py:7b --workdir=DIR
  python -m povid_jax.train --config=... --workdir=DIR --config.lr=2e-7

Run again with the same command, it continues from the newest checkpoint.
Several hosts: --coordinator=HOST:PORT --num-processes=N --process-id=I, or
--distributed where the cluster (SLURM, Cloud TPU, ...) tells JAX by itself.
"""

import argparse
import contextlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from povid_jax import bounds, errors, folders
from povid_jax import config as config_lib
from povid_jax.checkpoints import restore
from povid_jax.data import batches
from povid_jax.errors import UserError
from povid_jax.models import sharding
from povid_jax.training import (
  best,
  build,
  evaluation,
  inputs,
  lock,
  reference,
  start,
)
from povid_jax.training import workdir as workdir_lib
from povid_jax.training.accounting import Accounting
from povid_jax.training.evaluation import Evaluation
from povid_jax.training.loop import Loop
from povid_jax.training.run_checkpoints import RunCheckpoints
from povid_jax.training.samples import Samples
from povid_jax.training.step import State
from povid_jax.training.stops import Stops


def train_and_evaluate(
  config: ConfigDict,
  workdir: str | Path,
  stops: Stops | None = None,
  skip_damaged: bool = False,
) -> State:
  """Runs the config in `workdir`, from its newest checkpoint if it has one.

  Args:
    stops: the signal handler if the caller has started one; None: start one
      here.
    skip_damaged: whether a checkpoint that cannot be read is moved to
      WORKDIR/damaged, so that the run continues from the one before it.

  Raises:
    UserError: the config cannot work (found before training starts), or the
      loss of a step is not finite.
    Stopped: a signal arrived while there was nothing to save.
  """
  if stops is None:
    with Stops() as stops:
      return train_and_evaluate(config, workdir, stops, skip_damaged)
  _check(config, workdir)
  workdir = Path(workdir)
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      stack.enter_context(lock.held(workdir))
    return _run(config, workdir, stops, skip_damaged)


def _check(config: ConfigDict, workdir: str | Path) -> None:
  """Checks that need neither weights nor records."""
  if folders.is_remote(workdir):
    raise UserError(
      f"--workdir={workdir}: the run directory must be a local folder; mount "
      "the bucket (gcsfuse, s3fs), or copy the run directory to the bucket "
      "after training"
    )
  build.check(config)
  inputs.check(config, workdir)


def _run(
  config: ConfigDict, workdir: Path, stops: Stops, skip_damaged: bool
) -> State:
  config = _pin_init(config)
  workdir_lib.check(config, workdir)
  evaluation.check(config, workdir)
  mesh = sharding.make_mesh(config.mesh)
  described = restore.describe(config.init)
  sharding.check(mesh, described, config.batch_size // config.grad_accum)
  model = build.build_model(config, mesh)
  data = build.build_data(config, model.weights, workdir)
  total = len(data.plan)
  step, rates = build.make_step(config, model, total)
  best.check(config, model, data, step, mesh, workdir)
  cached = None
  if config.reference == "cached" and step.objective.needs.reference:
    cached = reference.cached(config, model, data, step, mesh, workdir)
  loader = build.build_loader(
    config, data, model.weights, mesh, workdir, cached
  )
  state = build.init_state(step, model.params, mesh)
  saved = RunCheckpoints(
    workdir,
    config.checkpoint.keep,
    config.checkpoint.best,
    config.checkpoint.best_mode,
  )
  restored = saved.restore(state, skip_damaged)
  state = state if restored is None else restored
  rows = batches.pipeline(
    data.plan, loader, config.data.workers, int(state.step)
  )
  workdir_lib.keep(config, workdir, total)
  start.announce(config, model, data, step, mesh, int(state.step))
  loop = Loop(
    config,
    workdir,
    mesh,
    model,
    step,
    total,
    saved,
    Accounting(config, model, data, step, rates),
    Evaluation(config, workdir, model, data, mesh),
    Samples(config, workdir, data),
    stops,
  )
  try:
    with contextlib.closing(rows):  # its processes
      return loop.run(state, rows)
  finally:
    saved.close()


def _pin_init(config: ConfigDict) -> ConfigDict:
  """`init` with an explicit step, so that the reference never changes."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.init = restore.resolve(config.init)
  return config


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  arguments = list(sys.argv[1:] if argv is None else argv)
  overrides, rest = config_lib.take_overrides(arguments)
  parser = argparse.ArgumentParser(
    prog="povid_jax.train",
    description=__doc__,
    epilog="Config fields, set with --config.NAME=VALUE:\n\n"
    + inspect.getsource(config_lib.default)
    + "\nValid values of the fields:\n\n"
    + bounds.table(),
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add(
    "--config",
    required=True,
    metavar="FILE[:VARIANT]",
    help="config file of the run: FILE[:VARIANT]",
  )
  add("--workdir", required=True, metavar="DIR", help="the run directory")
  add(
    "--coordinator",
    metavar="HOST:PORT",
    help="address of process 0, for a run on several hosts",
  )
  add("--num-processes", type=bounds.whole(1, 2**20), metavar="N")
  add("--process-id", type=bounds.whole(most=2**20), metavar="I")
  add(
    "--join-timeout",
    type=bounds.whole(1, 10**6),
    default=600,
    metavar="SECONDS",
    help="how long the processes wait for each other at the start (600)",
  )
  add(
    "--distributed",
    action="store_true",
    help="run on several hosts; JAX reads their addresses from the cluster's "
    "environment",
  )
  add(
    "--skip-damaged",
    action="store_true",
    help="move a checkpoint that cannot be read to WORKDIR/damaged and "
    "continue from the one before it",
  )
  args = parser.parse_args(rest)
  with Stops() as stops:
    config = config_lib.load(args.config, overrides)
    start.join(
      args.coordinator,
      args.num_processes,
      args.process_id,
      args.distributed,
      args.join_timeout,
    )
    stops.listen()  # JAX's coordination service installs its own handler
    with start.memory_named(), start.others_named():
      train_and_evaluate(config, args.workdir, stops, args.skip_damaged)
  return stops.code


def command() -> None:
  """The entry point of the installed script."""
  errors.run(main)


if __name__ == "__main__":
  command()
