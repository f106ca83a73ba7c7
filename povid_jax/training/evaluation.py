"""Benchmarks run during training: scores, best step, patience."""

import dataclasses
from pathlib import Path

import jax
from ml_collections import ConfigDict

from povid_jax.errors import UserError
from povid_jax.eval import run
from povid_jax.eval.request import Request, of_model
from povid_jax.generate import answering
from povid_jax.training import build
from povid_jax.training.step import State


def request(config: ConfigDict, workdir: Path, number: int) -> Request:
  """The evaluation of the model that starts with step `number`."""
  wanted = config.eval
  return of_model(
    wanted.benchmarks,
    checkpoint=f"{workdir}@{number}",
    data=Path(wanted.data),
    out=workdir / "eval" / str(number),
    images=Path(wanted.images) if wanted.images else None,
    limit=wanted.limit or None,
    judge=wanted.judge or None,
    judge_base_url=wanted.judge_base_url or None,
  )


def check(config: ConfigDict, workdir: Path) -> None:
  """Raises UserError for evaluations that could not run, before step 0."""
  wanted = config.eval
  if config.log.samples and jax.process_count() > 1:
    raise UserError(
      "config.log.samples works only in a run of one process; set it to 0"
    )
  if not wanted.benchmarks:
    if wanted.every or wanted.patience:
      raise UserError(
        "config.eval.every and config.eval.patience need benchmarks: list "
        "them in config.eval.benchmarks (pope,chair for example)"
      )
    return
  if jax.process_count() > 1:
    raise UserError(
      "config.eval.benchmarks works only in a run of one process; leave it "
      "empty and evaluate the checkpoints with povid_jax.eval"
    )
  if not wanted.data:
    raise UserError(
      "config.eval.data is empty: give the folder that contains a folder "
      "<benchmark>/ for each benchmark"
    )
  asked = request(config, workdir, 0)
  try:
    run.check(asked)
  except UserError as error:
    hint = str(error).replace("--images", "config.eval.images")
    hint = hint.replace("--judge-model", "config.eval.judge")
    hint = hint.replace("--judge-base-url", "config.eval.judge_base_url")
    raise UserError(f"config.eval: {hint}") from error
  names = [benchmark.name for benchmark in asked.benchmarks]
  best = config.checkpoint.best
  if wanted.patience and best.partition("/")[0] not in names:
    raise UserError(
      f"config.eval.patience={wanted.patience} stops a run when the metric "
      f"config.checkpoint.best no longer improves, but that is {best!r}: set "
      f"it to a metric of a benchmark, {names[0]}/NAME"
    )


class Evaluation:
  """Runs the benchmarks on the model in place, and keeps which step was best.

  Attributes:
    enough: whether the best value has not improved for `eval.patience`
      evaluations.
    best: (value, step) of the best evaluation so far, or None.
  """

  def __init__(
    self,
    config: ConfigDict,
    workdir: Path,
    model: build.Model,
    data: build.Data,
    mesh: jax.sharding.Mesh,
  ):
    self._config, self._workdir = config, workdir
    self._model, self._tokenizer, self._mesh = model, data.tokenizer, mesh
    self._total = len(data.plan)
    self.enough = False
    self.best: tuple[float, int] | None = None

  def due(self, number: int) -> bool:
    """Whether the model that starts with step `number` is evaluated."""
    wanted = self._config.eval
    at = wanted.every > 0 and number % wanted.every == 0
    return bool(wanted.benchmarks) and (at or number == self._total)

  def done(self, number: int) -> bool:
    """Whether its results are on disk."""
    out = request(self._config, self._workdir, number).out
    return (out / "results.json").is_file()

  def of(self, state: State) -> dict[str, float]:
    """ "benchmark/metric" -> value for the model as it is now."""
    number = int(state.step)
    policy = self.policy(state)
    asked = request(self._config, self._workdir, number)
    found = run.evaluate(asked, policy)
    run.show(found, asked.out)
    self._watch(found.scores, number)
    return found.scores

  def policy(self, state: State) -> answering.Policy:
    """The model as it is now; no second copy of the weights is made.

    Good until the next step only, which is given (donated) these arrays.
    """
    number = int(state.step)
    weights = dataclasses.replace(
      self._model.weights,
      lora=self._model.lora,
      fingerprint=f"{self._model.weights.fingerprint}+{number}",
    )
    return answering.Policy(
      weights=weights,
      tokenizer=self._tokenizer,
      graph=self._model.graph,
      params={**self._model.frozen.params, **state.params},
      mesh=self._mesh,
    )

  def recall(self, first: int) -> dict[int, dict[str, float]]:
    """Scores by step from earlier processes of this run; patience counts them
    too.
    """
    if not self._config.eval.benchmarks:
      return {}
    scores = {}
    found = (self._workdir / "eval").glob("*/results.json")
    for number in sorted(
      int(path.parent.name) for path in found if path.parent.name.isdigit()
    ):
      if number <= first:
        out = request(self._config, self._workdir, number).out
        scores[number] = run.read_results(out).scores
        self._watch(scores[number], number)
    return scores

  def _watch(self, scores: dict[str, float], number: int) -> None:
    metric, mode = (
      self._config.checkpoint.best,
      self._config.checkpoint.best_mode,
    )
    if metric not in scores:
      return
    sign = 1.0 if mode == "max" else -1.0
    score = sign * scores[metric]
    if self.best is None or score > self.best[0]:
      self.best = (score, number)
    elif self._config.eval.patience:
      waited = (number - self.best[1]) // max(1, self._config.eval.every)
      self.enough |= waited >= self._config.eval.patience
