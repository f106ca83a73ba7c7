"""The metric by which the best checkpoint is kept, checked before step 0."""

import difflib
from pathlib import Path

import jax
from ml_collections import ConfigDict

from povid_jax.errors import UserError
from povid_jax.eval import benchmarks
from povid_jax.training import build
from povid_jax.training.step import StepFn


def check(
  config: ConfigDict,
  model: build.Model,
  data: build.Data,
  step: StepFn,
  mesh: jax.sharding.Mesh,
  workdir: Path,
) -> None:
  """Traces the step for the names of its metrics; nothing is computed.

  Raises:
    UserError: `checkpoint.best` is neither a metric of the step nor one of a
      benchmark of this run.
  """
  wanted = config.checkpoint.best
  if not wanted:
    return
  asked = [n.strip() for n in config.eval.benchmarks.split(",")]
  name = wanted.partition("/")[0]
  if name in asked:
    _check_listed(name, wanted)
    return
  loader = build.build_loader(config, data, model.weights, mesh, workdir)
  batch = build.place(loader(data.plan[0]), config, mesh)
  state = build.describe_state(step, model.params, mesh)
  with jax.set_mesh(mesh):
    _, metrics = jax.eval_shape(step, state, model.frozen, batch)
  if wanted not in metrics:
    near = difflib.get_close_matches(wanted, metrics, 1, 0.0)[0]
    raise UserError(
      f"config.checkpoint.best={wanted!r} is not a metric of this run; did "
      f"you mean {near!r}? The metrics are {', '.join(sorted(metrics))}, and "
      "BENCHMARK/METRIC for each benchmark in config.eval.benchmarks"
    )


def _check_listed(name: str, wanted: str) -> None:
  """Raises UserError where no part of the metric is in the benchmark's list.

  The data decides what takes the place of a placeholder (<split>/f1). So a
  wrong split is found at the first evaluation only.
  """
  words = benchmarks.get(name).metric_words()
  if words & set(wanted.split("/")[1:]):
    return
  near = difflib.get_close_matches(wanted.rpartition("/")[2], words, 1, 0.0)[0]
  raise UserError(
    f"config.checkpoint.best={wanted!r} is not a metric of {name}; did you "
    f"mean '{name}/{near}'? The head of povid_jax/eval/benchmarks/{name}.py "
    "lists its metrics"
  )
