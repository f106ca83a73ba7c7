"""The loop of a training run: steps, logs, evaluations, checkpoints."""

import dataclasses
import json
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from povid_jax.data import batches
from povid_jax.data.batch import Batch
from povid_jax.errors import UserError
from povid_jax.eval import __main__ as eval_command
from povid_jax.eval import flags, needs
from povid_jax.generate import answering
from povid_jax.models import flops
from povid_jax.training import build, metrics, optim
from povid_jax.training.run_checkpoints import RunCheckpoints
from povid_jax.training.step import State, StepFn


def check_evaluation(config: ConfigDict) -> None:
  """Raises UserError for benchmarks that could not run, before step 0."""
  wanted = config.eval
  if not wanted.benchmarks:
    return
  if jax.process_count() > 1:
    raise UserError(
      "config.eval.benchmarks works in a single process; evaluate the "
      "checkpoints of several with povid_jax.eval"
    )
  for benchmark in flags.benchmarks(wanted.benchmarks):
    needs.locate(Path(wanted.data), benchmark)


class Loop:
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
    self.data, self.saved = data, saved
    self.frozen = model.frozen
    self.total = len(data.plan)
    # all at once: in the loop each would wait for the step on the device
    every = np.arange(self.total)
    self.rates = {
      group: np.asarray(jax.vmap(rate)(every)) for group, rate in rates.items()
    }
    self.model = model
    self.objective = step.objective
    self.jitted = jax.jit(step, donate_argnums=0)
    self.told = False  # this process; others may not know yet
    self.stop = False  # all processes
    self.enough = False  # the best does not get better
    self.best: tuple[float, int] | None = None

  def run(self, state: State, rows: Any) -> State:
    first = int(state.step)
    self._recall(first)
    last = first if self.enough else self.total
    latest: dict[str, float] = {}
    before = signal.signal(signal.SIGTERM, self._on_sigterm)
    profile = _Profile(self.config.log.profile_steps, first, self.workdir)
    try:
      with self._writer(first) as writer:
        pending: tuple[int, Any, dict[str, float]] | None = None
        for number in range(first, last):
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
          evaluate, save = self._due(number + 1)
          if evaluate or save:
            latest, pending = self._log(writer, *pending), None
            if evaluate:
              latest |= self._evaluate(state, number + 1)
            self.saved.save(state, latest)
            self._check_best(latest, evaluate)
          if self._stopping():
            break
        if pending is not None:
          latest = self._log(writer, *pending)
      self.saved.save(state, latest)
      self.saved.wait()
    finally:
      profile.close()
      signal.signal(signal.SIGTERM, before)
    self._say_goodbye(int(state.step))
    return state

  def _on_sigterm(self, *_: Any) -> None:
    self.told = True

  def _stopping(self) -> bool:
    """Whether any process was told to stop (all must agree on the step)."""
    told = self.told
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      told = bool(np.any(multihost_utils.process_allgather(np.array([told]))))
    self.stop |= told
    return self.stop or self.enough

  def _say_goodbye(self, step: int) -> None:
    if self.enough and self.best and step < self.total:
      print(
        f"stopped early at step {step} of {self.total}: "
        f"{self.config.checkpoint.best} was best at step {self.best[1]}",
        flush=True,
      )
    elif self.stop and step < self.total:
      print(
        f"stopped at step {step} of {self.total}, saved; the same command "
        "continues",
        flush=True,
      )
    else:
      print(f"done: {step} steps in {self.workdir}", flush=True)

  def _due(self, number: int) -> tuple[bool, bool]:
    """Whether to evaluate and whether to save before step `number`."""
    at = lambda every: every > 0 and number % every == 0
    last, wanted = number == self.total, self.config.eval
    evaluate = bool(wanted.benchmarks) and (last or at(wanted.every))
    return evaluate, last or at(self.config.checkpoint.every)

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
    self, number: int, host: Batch, waited: float
  ) -> dict[str, float]:
    plan = self.data.plan[number]
    rates = {
      ("lr" if group == "default" else f"lr/{group}"): float(rate[number])
      for group, rate in self.rates.items()
    }
    branches = host.branch_ids.shape[1]
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
      "bad_samples": int(host.skipped.sum()),
      "flops": self._flops(plan, branches),
    }

  def _flops(self, plan: batches.Step, branches: int) -> float:
    needs = self.objective.needs
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
        reference=self.config.reference if needs.reference else "none",
        noise=needs.noise,
        corrupted=needs.corrupted,
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

  def _evaluate(self, state: State, number: int) -> dict[str, float]:
    """Scores of the configured benchmarks for the model as it is now.

    It is asked where it lies: no second copy of the weights is made, and its
    checkpoint, which comes after, can be kept for its scores.
    """
    wanted = self.config.eval
    out = self.workdir / "eval" / str(number)
    arguments = [
      f"--checkpoint={self.workdir}@{number}",
      f"--benchmarks={wanted.benchmarks}",
      f"--data={wanted.data}",
      f"--out={out}",
      "--overwrite",
    ]
    if wanted.limit:
      arguments.append(f"--limit={wanted.limit}")
    weights = dataclasses.replace(
      self.model.weights,
      lora=self.model.lora,
      fingerprint=f"{self.model.weights.fingerprint}+{number}",
    )
    policy = answering.Policy(
      weights=weights,
      tokenizer=self.data.tokenizer,
      graph=self.model.graph,
      params={**self.frozen.params, **state.params},
      mesh=self.mesh,
    )
    eval_command.main(arguments, policy)
    scores = _scores(out)
    self._watch(scores, number)
    return scores

  def _recall(self, first: int) -> None:
    """Goes on counting patience where the processes before this one were."""
    if not self.config.eval.benchmarks:
      return
    found = (self.workdir / "eval").glob("*/results.json")
    for number in sorted(int(path.parent.name) for path in found):
      if number <= first:
        self._watch(_scores(self.workdir / "eval" / str(number)), number)

  def _check_best(self, row: dict[str, float], evaluated: bool) -> None:
    """Raises UserError for a best by what is not measured."""
    best = self.config.checkpoint.best
    asked = evaluated or not self.config.eval.benchmarks
    if best and asked and best not in row:
      raise UserError(
        f"config.checkpoint.best={best!r} is none of this run's metrics: "
        f"{', '.join(sorted(row))}"
      )

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
        self.enough = True


def _scores(folder: Path) -> dict[str, float]:
  """ "benchmark/metric" -> value, of an evaluation."""
  results = json.loads((folder / "results.json").read_text())["results"]
  return {f"{r['benchmark']}/{r['metric']}": r["value"] for r in results}


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
