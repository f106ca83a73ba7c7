"""Trains one stage of POVID, or anything else that is a config.

  python -m povid_jax.train --config=configs/povid_stage1.py:7b --workdir=DIR
  python -m povid_jax.train --config=... --workdir=DIR --config.lr=2e-7

Run again with the same command, it continues from the newest checkpoint.
Several hosts: --coordinator=HOST:PORT --num-processes=N --process-id=I, or
--distributed where the cluster (SLURM, Cloud TPU, ...) tells JAX by itself.
"""

import argparse
import inspect
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from povid_jax import (
  build,
  checkpoint,
  errors,
  files,
  flops,
  metrics,
  optim,
  reference,
  sharding,
)
from povid_jax import (
  config as config_lib,
)
from povid_jax import eval as eval_command
from povid_jax.data import batches
from povid_jax.errors import UserError
from povid_jax.run_checkpoints import RunCheckpoints
from povid_jax.step import State, StepFn

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
  _keep_config(config, workdir)
  mesh = sharding.make_mesh(config.mesh)
  described = checkpoint.describe(config.init)
  sharding.check(mesh, described, config.batch_size // config.grad_accum)
  model = build.build_model(config, mesh)
  data = build.build_data(config, model.weights, workdir)
  step, rates = build.make_step(config, model, len(data.plan))
  extra = {}
  if config.reference == "cached" and "reference" in step.objective.needs:
    extra = reference.cached(config, model, data, step, mesh, workdir)
  loader = build.build_loader(config, data, model.weights, mesh, workdir, extra)
  rows = batches.pipeline(data.plan, loader, config.data.workers)
  state = build.init_state(step, model.params, mesh)
  saved = RunCheckpoints(
    workdir,
    config.checkpoint.keep,
    config.checkpoint.best,
    config.checkpoint.best_mode,
  )
  restored = saved.restore(state, rows)
  state = state if restored is None else restored
  _announce(config, model, data, int(state.step))
  loop = _Loop(config, workdir, model, data, step, rates, saved, mesh)
  try:
    return loop.run(state, rows)
  finally:
    saved.close()


class _Loop:
  """Steps, saves, logs; one object because they share where the run is."""

  def __init__(
    self,
    config: ConfigDict,
    workdir: Path,
    model: build.Model,
    data: build.Data,
    step: StepFn,
    rates: dict[str, Any],
    saved: RunCheckpoints,
    mesh: jax.sharding.Mesh,
  ):
    self.config, self.workdir, self.mesh = config, workdir, mesh
    self.data, self.rates, self.saved = data, rates, saved
    self.frozen = model.frozen
    self.total = len(data.plan)
    self.model = model
    self.objective = step.objective
    self.jitted = jax.jit(step, donate_argnums=0)
    self.stop = False
    self.best: tuple[float, int] | None = None

  def run(self, state: State, rows: Any) -> State:
    first = int(state.step)
    latest: dict[str, float] = {}
    before = signal.signal(signal.SIGTERM, self._on_sigterm)
    profile = _Profile(self.config.log.profile_steps, first, self.workdir)
    try:
      with self._writer(first) as writer:
        pending: tuple[int, Any, dict[str, float]] | None = None
        for number in range(first, self.total):
          asked = time.monotonic()
          host = next(rows)
          waited = time.monotonic() - asked
          batch = build.place(host, self.config, self.mesh)
          with jax.set_mesh(self.mesh):
            state, out = self.jitted(state, self.frozen, batch)
          # numbers of the step before are fetched while this one runs
          if pending is not None:
            latest = self._log(writer, *pending)
          pending = (number, out, self._host_metrics(number, host, waited))
          profile.tick(number)
          if self._at(number + 1, self.config.checkpoint.every) or self._done(
            number
          ):
            latest = self._log(writer, *pending)
            pending = None
            latest |= self._evaluate(state, rows, number + 1)
            self.saved.save(state, rows, latest)
          elif self._at(number + 1, self.config.eval.every):
            latest = self._log(writer, *pending)
            pending = None
            self._evaluate(state, rows, number + 1)
          if self._stopping():
            break
        if pending is not None:
          self._log(writer, *pending)
      self.saved.save(state, rows, latest)
      self.saved.wait()
    finally:
      profile.close()
      signal.signal(signal.SIGTERM, before)
    self._say_goodbye(int(state.step))
    return state

  def _on_sigterm(self, *_: Any) -> None:
    self.stop = True

  def _stopping(self) -> bool:
    """Whether any process was told to stop (all must agree on the step)."""
    if jax.process_count() == 1:
      return self.stop
    from jax.experimental import multihost_utils

    told = multihost_utils.process_allgather(np.array([self.stop]))
    self.stop = bool(np.any(told))
    return self.stop

  def _say_goodbye(self, step: int) -> None:
    if self.stop and step < self.total:
      print(
        f"stopped at step {step} of {self.total}, saved; the same command "
        "continues",
        flush=True,
      )
    else:
      print(f"done: {step} steps in {self.workdir}", flush=True)

  def _at(self, number: int, every: int) -> bool:
    return every > 0 and number % every == 0

  def _done(self, number: int) -> bool:
    return number + 1 == self.total or self.stop

  def _writer(self, first: int) -> metrics.Writer:
    peak = metrics.peak_flops(jax.devices()[0].device_kind)
    project = self.config.log.wandb
    return metrics.Writer(
      self.workdir,
      start_step=first,
      every=self.config.log.every,
      total_steps=self.total,
      peak=peak * self.mesh.devices.size if peak else None,
      tensorboard=self.config.log.tensorboard,
      wandb={"project": project} if project else None,
      enabled=jax.process_index() == 0,
    )

  def _host_metrics(
    self, number: int, host: batches.Batch, waited: float
  ) -> dict[str, float]:
    plan = self.data.plan[number]
    rates = {
      ("lr" if group == "default" else f"lr/{group}"): float(rate(number))
      for group, rate in self.rates.items()
    }
    branches = host["branch_ids"].shape[1]
    padded = len(plan.rows) * (plan.prefix + branches * plan.branch)
    used = [r for r in plan.rows if r != batches.FILLER]
    lengths = self.data.lengths
    real = int(lengths.prefix[used].sum() + lengths.scored[used].sum())
    return {
      **rates,
      "epoch": number / self.data.plan.steps_per_epoch,
      "tokens": real,
      "padding": 1.0 - real / padded,
      "input_wait_seconds": waited,
      "flops": self._flops(plan, branches),
    }

  def _flops(self, plan: batches.Step, branches: int) -> float:
    needs = self.objective.needs
    online = "reference" in needs and self.config.reference == "online"
    cached = "reference" in needs and self.config.reference == "cached"
    work = flops.of(
      flops.Model(
        config=self.model.weights.config,
        lora=self.model.lora,
        trains=lambda path: path in self.model.params,
        remat=self.config.remat,
        chunk=self.config.head_chunk,
      ),
      flops.Step(
        batch=self.config.batch_size,
        prefix=plan.prefix,
        branches=branches,
        length=plan.branch,
        reference="online" if online else "cached" if cached else "none",
        noise=self.objective.noise_reference,
        corrupted="corrupted" in needs,
        share_prefix=self.config.share_prefix,
      ),
    )
    return work["total"].model

  def _log(
    self, writer: metrics.Writer, number: int, out: Any, host: dict[str, float]
  ) -> dict[str, float]:
    values = {name: float(x) for name, x in jax.device_get(out).items()}
    work = host.pop("flops")
    row = writer.write(
      number,
      {**values, **host},
      pairs=values["rows_used"],
      tokens=host["tokens"],
      flops=work,
    )
    optim.check_finite(self.config.on_nonfinite, number, values)
    return row

  def _evaluate(self, state: State, rows: Any, number: int) -> dict[str, float]:
    """Runs the configured benchmarks on this step's checkpoint."""
    wanted = self.config.eval
    if not wanted.benchmarks or not (
      self._at(number, wanted.every) or number == self.total
    ):
      return {}
    self.saved.save(state, rows, {})
    self.saved.wait()
    out = self.workdir / "eval" / str(number)
    arguments = [
      f"--checkpoint={self.workdir}@{number}",
      f"--benchmarks={wanted.benchmarks}",
      f"--data={wanted.data}",
      f"--out={out}",
    ]
    if wanted.limit:
      arguments.append(f"--limit={wanted.limit}")
    eval_command.main(arguments)
    results = json.loads((out / "results.json").read_text())["results"]
    scores = {f"{r['benchmark']}/{r['metric']}": r["value"] for r in results}
    self._watch(scores, number)
    return scores

  def _watch(self, scores: dict[str, float], number: int) -> None:
    """Stops the run after `patience` evaluations without a better best."""
    metric, mode = self.config.checkpoint.best, self.config.checkpoint.best_mode
    if metric not in scores:
      return
    sign = 1.0 if mode == "max" else -1.0
    score = sign * scores[metric]
    if self.best is None or score > self.best[0]:
      self.best = (score, number)
    elif self.config.eval.patience:
      waited = (number - self.best[1]) // max(1, self.config.eval.every)
      if waited >= self.config.eval.patience:
        print(f"{metric} has not improved since step {self.best[1]}")
        self.stop = True


class _Profile:
  """A profiler trace of a few steps after the first ten."""

  def __init__(self, steps: int, first: int, workdir: Path):
    self.start, self.end = first + 10, first + 10 + steps
    self.steps, self.folder, self.on = steps, workdir / "profile", False

  def tick(self, number: int) -> None:
    if self.steps and number == self.start:
      jax.profiler.start_trace(str(self.folder))
      self.on = True
    elif self.on and number >= self.end:
      self.close()

  def close(self) -> None:
    if self.on:
      jax.profiler.stop_trace()
      self.on = False


def _pin_init(config: ConfigDict) -> ConfigDict:
  """`init` with its step made explicit: what the reference is, for good."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.init = checkpoint.resolve(config.init)
  return config


def _keep_config(config: ConfigDict, workdir: Path) -> None:
  """Writes config.json; refuses a workdir that belongs to another config."""
  path = workdir / "config.json"
  lora = build.lora_of(config)
  described = {
    **config.to_dict(),
    "lora": lora.to_dict() if lora is not None else None,
  }
  if path.exists():
    old = config_lib.flat(checkpoint.read_json(path, "it describes the run"))
    for name, value in config_lib.flat(described).items():
      if not name.startswith(_FREE) and old.get(name) != value:
        raise UserError(
          f"{workdir} holds a run with config.{name}={old.get(name)!r}, this "
          f"one has {value!r}; use another --workdir"
        )
  if jax.process_index() == 0:
    with files.atomic_write(path) as file:
      json.dump(described, file, indent=2)


def _announce(
  config: ConfigDict, model: build.Model, data: build.Data, first: int
) -> None:
  if jax.process_index():
    return
  print(optim.trainable_table(model.shapes, model.patterns))
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


if __name__ == "__main__":
  errors.run(main)
