"""Trains one stage of POVID, or anything else that is a config.

  python -m povid_jax.train --config=configs/povid_stage1.py:7b --workdir=DIR
  python -m povid_jax.train --config=... --workdir=DIR --config.lr=2e-7

Run again with the same command, it continues from the newest checkpoint.
Several hosts: --coordinator=HOST:PORT --num-processes=N --process-id=I, or
--distributed where the cluster (SLURM, Cloud TPU, ...) tells JAX by itself.
"""

import argparse
import contextlib
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from povid_jax import (
  config as config_lib,
)
from povid_jax import errors, files
from povid_jax.checkpoints import restore
from povid_jax.data import batches
from povid_jax.errors import UserError
from povid_jax.models import sharding
from povid_jax.training import build, optim, outline, reference
from povid_jax.training.loop import Loop, check_evaluation
from povid_jax.training.run_checkpoints import RunCheckpoints
from povid_jax.training.step import State

# fields that may differ when a run continues: they do not change its numbers
_FREE = (
  "checkpoint.",
  "log.",
  "eval.",
  "data.workers",
  "mesh.",
  "attention",
  "remat",
  "head_chunk",
  "reference_cache",
)


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> State:
  """Runs the config in `workdir`, from its newest checkpoint if it has one.

  Raises:
    UserError: a config that cannot work, said before anything is trained; a
      step whose loss is not finite.
  """
  workdir = Path(workdir)
  build.check(config)
  config = _pin_init(config)
  _check_workdir(config, workdir)
  check_evaluation(config)
  mesh = sharding.make_mesh(config.mesh)
  described = restore.describe(config.init)
  sharding.check(mesh, described, config.batch_size // config.grad_accum)
  model = build.build_model(config, mesh)
  data = build.build_data(config, model.weights, workdir)
  step, rates = build.make_step(config, model, len(data.plan))
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
  restored = saved.restore(state)
  state = state if restored is None else restored
  rows = batches.pipeline(
    data.plan, loader, config.data.workers, int(state.step)
  )
  _keep_config(config, workdir)
  _announce(config, model, data, int(state.step))
  loop = Loop(config, workdir, model, data, step, rates, saved, mesh)
  try:
    with contextlib.closing(rows):  # its processes
      return loop.run(state, rows)
  finally:
    saved.close()


def _pin_init(config: ConfigDict) -> ConfigDict:
  """`init` with its step made explicit: what the reference is, for good."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.init = restore.resolve(config.init)
  return config


def _described(config: ConfigDict) -> dict[str, Any]:
  lora = outline.lora_of(config)
  return {
    **config.to_dict(),
    "lora": lora.to_dict() if lora is not None else None,
  }


def _check_workdir(config: ConfigDict, workdir: Path) -> None:
  """Refuses a workdir with checkpoints of another config."""
  if not restore.steps_of(workdir):
    return
  path = workdir / "config.json"
  old = config_lib.flat(files.read_json(path, "it describes the run"))
  # a field that is younger than the run had its default
  old = config_lib.flat(config_lib.default().to_dict()) | old
  new = config_lib.flat(_described(config))
  # one that is set no more is back at its default: another run
  gone = {n for n in old if n.startswith("objective.hyper.")} - set(new)
  for name, value in {**new, **dict.fromkeys(gone)}.items():
    if not name.startswith(_FREE) and old.get(name) != _as_json(value):
      raise UserError(
        f"{workdir} holds a run with config.{name}={old.get(name)!r}, this "
        f"one has {value!r}; use another --workdir"
      )


def _as_json(value: Any) -> Any:
  return json.loads(json.dumps(value))


def _keep_config(config: ConfigDict, workdir: Path) -> None:
  """Writes config.json, once everything about the config has been checked."""
  if jax.process_index() == 0:
    with files.atomic_write(workdir / "config.json") as file:
      json.dump(_described(config), file, indent=2)


def _announce(
  config: ConfigDict, model: build.Model, data: build.Data, first: int
) -> None:
  if jax.process_index():
    return
  held = {**model.frozen.params, **model.params}
  print(optim.trainable_table(held, model.patterns))
  buckets = data.buckets
  print(
    f"{len(buckets.kept)} samples, lengths {buckets.prefix} + "
    f"{buckets.branch}, padding {buckets.padding:.1%}; {len(data.plan)} steps "
    f"of {config.batch_size}, {data.plan.steps_per_epoch} an epoch"
  )
  if first:
    print(f"continuing at step {first}")
  sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  arguments = list(sys.argv[1:] if argv is None else argv)
  overrides, rest = config_lib.take_overrides(arguments)
  parser = argparse.ArgumentParser(
    prog="povid_jax.train",
    description=__doc__,
    epilog="Fields, to be set with --config.NAME=VALUE:\n\n"
    + inspect.getsource(config_lib.default),
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--config", required=True, metavar="FILE[:VARIANT]", help="what to run")
  add("--workdir", required=True, metavar="DIR", help="the run directory")
  add("--coordinator", metavar="HOST:PORT", help="of several hosts")
  add("--num-processes", type=int, metavar="N")
  add("--process-id", type=int, metavar="I")
  add(
    "--distributed",
    action="store_true",
    help="several hosts, found by JAX in the cluster's environment",
  )
  args = parser.parse_args(rest)
  config = config_lib.load(args.config, overrides)
  if args.coordinator:
    jax.distributed.initialize(
      args.coordinator, args.num_processes, args.process_id
    )
  elif args.distributed:
    jax.distributed.initialize()
  train_and_evaluate(config, args.workdir)
  return 0


def command() -> None:
  """The entry point of the installed script."""
  errors.run(main)


if __name__ == "__main__":
  command()
