"""The loop of a training run: steps, saves, and when it stops."""

import contextlib
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from povid_jax.data.batch import Batch
from povid_jax.errors import UserError
from povid_jax.models import chips
from povid_jax.training import build, metrics, optim
from povid_jax.training import workdir as workdir_lib
from povid_jax.training.accounting import Accounting
from povid_jax.training.compiling import Compiling
from povid_jax.training.evaluation import Evaluation
from povid_jax.training.run_checkpoints import RunCheckpoints
from povid_jax.training.samples import Samples
from povid_jax.training.step import State, StepFn
from povid_jax.training.stops import Stopped, Stops


class Loop:
  """Runs the steps, saves and stops, which all depend on how far the run is.

  Args:
    total: steps of the whole run.
    accounting: counts what a step does.
    evaluation: runs the benchmarks.
    samples: prints answers to a few records.
    stops: records the signals that stop the run.
  """

  def __init__(
    self,
    config: ConfigDict,
    workdir: Path,
    mesh: jax.sharding.Mesh,
    model: build.Model,
    step: StepFn,
    total: int,
    saved: RunCheckpoints,
    accounting: Accounting,
    evaluation: Evaluation,
    samples: Samples,
    stops: Stops,
  ):
    self.config, self.workdir, self.mesh = config, workdir, mesh
    self.frozen, self.total, self.saved = model.frozen, total, saved
    self.accounting, self.evaluation = accounting, evaluation
    self.samples, self.stops = samples, stops
    self.lengths: set[tuple[int, ...]] = set()  # compiled for
    self.compiling = Compiling(workdir, enabled=jax.process_index() == 0)
    # donated: the old state and the new one may not fit in memory together
    self.jitted = jax.jit(step, donate_argnums=0)
    self.reached = 0  # steps done by now

  def run(self, state: State, rows: Any) -> State:
    """Trains to the end, or until a signal stops the run, and saves.

    Args:
      rows: iterator over host batches, from the state's step on.
    """
    self.reached = first = int(state.step)
    profile = _Profile(self.config.log.profile_steps, first, self.workdir)
    try:
      noting = self.stops.noting_signals(self._lost)
      with noting, self._writer(first) as writer:
        self._recall(state)
        # an earlier process may have been killed after its patience ran out
        last = first if self.evaluation.enough else self.total
        pending: tuple[int, Any, dict[str, float]] | None = None
        latest: dict[str, float] = {}
        for number in range(first, last):
          asked = time.monotonic()
          host = next(rows)
          waited = time.monotonic() - asked
          batch = build.place(host, self.config, self.mesh)
          state, out = self._step(state, batch)
          # Numbers of the step before are fetched while this one runs. So a bad
          # step is reported one step late, which does no harm: the update was
          # withheld (optim.finite_guard).
          if pending is not None:
            latest = self._log(writer, *pending)
          pending = (number, out, self.accounting.of(number, host, waited))
          self.reached = number + 1
          profile.tick(number)
          if self._saves(number + 1) or self.evaluation.due(number + 1):
            # a checkpoint is saved with the metrics of its last step, so they
            # are fetched now
            latest, pending = self._log(writer, *pending), None
            self._save(state, latest)
          if self.samples.due(number + 1):
            self._ask_samples(state, number + 1)
          if self._told() or self.evaluation.enough:
            break
        if pending is not None:
          latest = self._log(writer, *pending)
        # nothing where this step is saved already, so its ratings stay
        self.saved.save(state, latest)
        self.saved.wait()
        self.saved.prune()
    finally:
      profile.close()
    if not self.stops.code:
      # not after a signal: that run is not complete, and may be continued
      workdir_lib.note_end(self.workdir, int(state.step), self.total)
    self._say_goodbye(int(state.step))
    return state

  def _saves(self, number: int) -> bool:
    """Whether to save before step `number`."""
    every = self.config.checkpoint.every
    return number == self.total or (every > 0 and number % every == 0)

  def _save(self, state: State, latest: dict[str, float]) -> None:
    """Saves first and then evaluates if due, so that an evaluated step is never
    lost.
    """
    self.saved.save(state, latest)
    number = int(state.step)
    # `told` of this process is enough: only a single one evaluates
    if self.evaluation.due(number) and not self.stops.told:
      latest = latest | self._evaluate(state)
    self._check_best(latest, self.evaluation.due(number))

  def _evaluate(self, state: State) -> dict[str, float]:
    self.saved.wait()
    # a signal ends the process at once here; the checkpoint is already on disk
    with self.stops.leaving_at_signal():
      scores = self.evaluation.of(state)
    self.saved.rate(int(state.step), scores)
    return scores

  def _ask_samples(self, state: State, number: int) -> None:
    """Answers of the model as it is now; a signal leaves them at once.

    The run goes on to where it looks for signals, because unlike an evaluated
    step this one need not be saved yet.
    """
    try:
      with self.stops.leaving_at_signal():
        self.samples.ask(self.evaluation.policy(state), number)
    except Stopped:
      self.stops.code = 0  # `_told` sets it, if there are steps left

  def _step(self, state: State, batch: Batch) -> tuple[State, Any]:
    """Runs one step; new lengths are compiled first, which takes minutes and is
    printed.
    """
    lengths = (batch.prefix_ids.shape[-1], *batch.branch_ids.shape[-2:])
    new = lengths not in self.lengths
    self.lengths.add(lengths)
    what = f"the step for {lengths[0]} + {lengths[2]} tokens"
    saying = self.compiling.saying(what) if new else contextlib.nullcontext()
    with saying, jax.set_mesh(self.mesh):
      state, out = self.jitted(state, self.frozen, batch)
      if new and jax.process_count() > 1:
        # this one may have found it in the cache while others still compile
        jax.block_until_ready(out)
    return state, out

  def _recall(self, state: State) -> None:
    """Loads scores of earlier processes, and makes up an evaluation they
    missed.
    """
    number = int(state.step)
    for step, scores in self.evaluation.recall(number).items():
      self.saved.rate(step, scores)
    path = metrics.path_in(self.workdir)
    if self.config.checkpoint.best and path.exists():
      for row in metrics.read(path):
        # row n was measured before update n; the model saved after that update
        # has the number n + 1
        self.saved.rate(row["step"] + 1, row)
    due = number > 0 and self.evaluation.due(number)
    if due and not self.evaluation.done(number):
      self._evaluate(state)

  def _told(self) -> bool:
    """Whether any process got a signal; all must stop at the same step."""
    told = self.stops.agreed()
    # a signal during the last step changes nothing: the run is complete, and
    # 143 would start the job again
    if told and self.reached < self.total:
      self.stops.code = 128 + told
    return bool(told)

  def _lost(self) -> str:
    latest = self.saved.latest or 0
    return (
      f"{self.reached - latest} steps since checkpoint {latest} are lost; run "
      "the same command again to continue from that checkpoint"
    )

  def _say_goodbye(self, step: int) -> None:
    best = self.evaluation.best
    if self.stops.code and step < self.total:
      print(
        f"stopped at step {step} of {self.total}, checkpoint saved; run the "
        "same command again to continue",
        flush=True,
      )
    elif self.evaluation.enough and best and step < self.total:
      print(
        f"stopped early at step {step} of {self.total}: "
        f"{self.config.checkpoint.best} was best at step {best[1]}",
        flush=True,
      )
    else:
      print(
        f"done: {step} steps; the run directory is {self.workdir}", flush=True
      )

  def _writer(self, first: int) -> metrics.Writer:
    peak = chips.peak_flops(jax.devices()[0].device_kind)
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
    # after writing the row, so that train.jsonl shows the step that failed
    optim.check_finite(self.config.on_nonfinite, number, values)
    return row

  def _check_best(self, row: dict[str, float], evaluated: bool) -> None:
    """Raises UserError if the metric of the best checkpoint is not measured."""
    best = self.config.checkpoint.best
    asked = evaluated or not self.config.eval.benchmarks
    if best and asked and best not in row and not self.stops.told:
      raise UserError(
        f"config.checkpoint.best={best!r} is not a metric of this run; the "
        f"metrics are {', '.join(sorted(row))}"
      )


class _Profile:
  """A profiler trace of a few steps after the first ten."""

  def __init__(self, steps: int, first: int, workdir: Path):
    # the first steps compile and fill caches, and are not typical
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
