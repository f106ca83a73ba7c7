"""What the host counts for a step: learning rates, tokens, padding, FLOPs."""

from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from povid_jax.data import batches
from povid_jax.data.batch import Batch
from povid_jax.models import flops
from povid_jax.models.config import LlavaConfig
from povid_jax.models.work import Setup, Work
from povid_jax.training import build
from povid_jax.training.outline import Outline
from povid_jax.training.step import StepFn

_BLOCK = 4096  # steps whose learning rates are computed together


class Counted(NamedTuple):
  """Work of a step, how many times the decoder runs in it, and the part of the
  work that is the decoder's products with frozen kernels."""

  total: Work
  passes: int
  kernels: Work

  @property
  def share(self) -> float:
    """Of the kernels, in all that the hardware computes."""
    return self.kernels.hardware / self.total.hardware


def step_flops(
  config: ConfigDict,
  described: LlavaConfig,
  sketch: Outline,
  step: StepFn,
  *,
  prefix: int,
  branch: int,
  branches: int,
  tiles: float = 1.0,
  masked: bool = True,
) -> Counted:
  """What a step computes.

  Args:
    prefix, branch, branches: P, C and N of the batch.
    tiles: squares that the tower sees per pair, on average.
    masked: False: without the pairs of tokens that the attention mask closes.
  """
  needs = step.spec.needs
  work = flops.Step(
    batch=config.batch_size,
    prefix=prefix,
    branches=branches,
    length=branch,
    tiles=tiles,
    reference=config.reference if needs.reference else "none",
    noise=needs.noise,
    corrupted=needs.corrupted,
    share_prefix=config.share_prefix,
  )
  trained = frozenset(sketch.trained)
  model = Setup(
    config=described,
    lora=sketch.lora,
    trains=trained.__contains__,
    remat=config.remat,
    masked=masked,
  )
  total = flops.of(model, work)["total"]
  return Counted(total, len(work.passes()), flops.kernels(model, work))


class Accounting:
  """Numbers of a step that need no device.

  Args:
    rates: group -> learning rate by step, from `build.make_step`.
  """

  def __init__(
    self,
    config: ConfigDict,
    model: build.Model,
    data: build.Data,
    step: StepFn,
    rates: dict[str, Any],
  ):
    self._config, self._model, self._data = config, model, data
    self._step, self._rates = step, rates
    self._block = -1
    self._table: dict[str, np.ndarray] = {}

  def of(self, number: int, host: Batch, waited: float) -> dict[str, float]:
    """The numbers of step `number`, `flops` among them.

    Args:
      host: its batch.
      waited: seconds that the step waited for it.
    """
    plan = self._data.plan[number]
    branches = host.branch_ids.shape[1]
    padded = len(plan.rows) * (plan.prefix + branches * plan.branch)
    used = [r for r in plan.rows if r != batches.FILLER]
    lengths = self._data.lengths
    real = int(lengths.prefix[used].sum() + lengths.scored[used].sum())
    work = step_flops(
      self._config,
      self._model.weights.config,
      self._model,
      self._step,
      prefix=plan.prefix,
      branch=plan.branch,
      branches=branches,
      tiles=int(lengths.tiles[used].sum()) / len(plan.rows),
    ).total
    return {
      **self._rates_of(number),
      "epoch": number / self._data.plan.steps_per_epoch,
      "tokens": real,
      "padding": 1.0 - real / padded,
      "input_wait_seconds": waited,
      "bad_samples": int(np.asarray(host.skipped).sum()),
      "flops": work.model,
    }

  def _rates_of(self, number: int) -> dict[str, float]:
    """Learning rates, many at a time: each device call would wait for the
    running step.
    """
    block, place = divmod(number, _BLOCK)
    if block != self._block:
      steps = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
      self._table = {
        group: np.asarray(jax.vmap(rate)(steps))
        for group, rate in self._rates.items()
      }
      self._block = block
    return {
      ("lr" if group == "default" else f"lr/{group}"): float(rate[place])
      for group, rate in self._table.items()
    }
