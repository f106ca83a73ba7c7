"""Weights of tokens, contexts and several rejected answers, as losses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from povid_jax import objectives
from povid_jax.data import text
from povid_jax.data.records import Rejected
from povid_jax.models import params as params_lib
from povid_jax.models.config import LoraConfig
from povid_jax.objectives import logps, weighted_mean
from povid_jax.objectives.logps import Frozen, Spec
from tests import plain_model, small_world

CONTEXT = "A cat and a dog."


@pytest.fixture(scope="module")
def world():
  """(graph, frozen parameters, adapters)."""
  graph, shapes = params_lib.abstract(
    small_world.MODEL, LoraConfig(rank=2, alpha=4.0)
  )
  random = np.random.default_rng(1)
  held = {k: jnp.asarray(v) for k, v in small_world.arrays().items()}
  adapters = {
    path: jnp.asarray(random.normal(0, 0.2, leaf.shape), jnp.float32)
    for path, leaf in shapes.items()
    if params_lib.is_lora(path)
  }
  return graph, Frozen(held, {}), adapters


@pytest.fixture(scope="module")
def run(world):
  """Function from a batch to (loss, gradient of every adapter).

  Other adapters than those of `world` may be given.
  """
  graph, frozen, usual = world
  objective = objectives.get("dpo", anchor_weight=0.2, beta=0.5)
  spec = Spec(objective.needs, head_chunk=64)

  @jax.jit
  def gradients(adapters, batch):
    def loss(adapters):
      counts = logps.counts(batch)
      found = logps.both(graph, frozen, adapters, batch, spec)
      loss, _ = objective.fn(found.policy, found.reference, counts)
      return weighted_mean(loss, objective.weights(counts))

    return jax.value_and_grad(loss)(adapters)

  return lambda batch, adapters=usual: gradients(adapters, batch.for_model())


def _same(one, other):
  assert float(one[0]) == pytest.approx(float(other[0]), rel=1e-5)
  assert abs(float(one[0]) - 1.2 * np.log(2)) > 1e-3
  far = small_world.relative_difference(one[1], other[1])
  assert {k: v for k, v in far.items() if v > 1e-5} == {}


def _drop_noise(batch):
  return batch._replace(images_noisy=None)


def test_a_context_is_one_that_both_answers_share(world, run, tmp_path):
  """Scored in neither, scored in both, or part of the prefix: one loss.

  The anchor sees the chosen answer alone, so it is left out of this one.
  """
  graph, frozen, adapters = world
  records = [
    small_world.record(i, context=CONTEXT, end_scored=False) for i in range(3)
  ]
  whole = [
    dataclasses.replace(
      record,
      context="",
      chosen=(text.join(CONTEXT, record.chosen[0]),),
      rejected=(text.join(CONTEXT, record.rejected[0]),),
    )
    for record in records
  ]
  short = small_world.batch_of(tmp_path / "a", records)
  long = small_world.batch_of(tmp_path / "b", whole)
  assert short.branch_ids.shape[2] < long.branch_ids.shape[2]
  assert (short.prefix_len > long.prefix_len).all()
  objective = objectives.get("dpo", beta=0.5)
  spec = Spec(objective.needs, head_chunk=64)

  def gradients(batch):
    def loss(adapters):
      found = logps.both(graph, frozen, adapters, batch, spec)
      counts = logps.counts(batch)
      return objective.fn(found.policy, found.reference, counts)[0].mean()

    return jax.jit(jax.value_and_grad(loss))(adapters)

  one, other = gradients(short), gradients(long)
  assert float(one[0]) == pytest.approx(float(other[0]), rel=1e-5)
  assert abs(float(one[0]) - np.log(2)) > 1e-3
  # what cancels in the gradient is larger than what is left
  far = small_world.relative_difference(one[1], other[1])
  assert {k: v for k, v in far.items() if v > 1e-4} == {}


@pytest.mark.slow
def test_rejected_answers_on_one_prefix_are_rows_of_their_own(run, tmp_path):
  more = (Rejected(("A phone.",), 0.5), Rejected(("roof cat dog bus.",)))
  records = [
    small_world.record(0, more_rejected=more, context=CONTEXT),
    small_world.record(1),
    small_world.record(2, more_rejected=more[:1], rejected_weight=2.0),
  ]
  apart = [
    dataclasses.replace(
      record,
      rejected=answer.turns,
      rejected_weight=answer.weight,
      more_rejected=(),
    )
    for record in records
    for answer in record.every_rejected
  ]
  shared = small_world.batch_of(tmp_path / "a", records)
  rows = small_world.batch_of(tmp_path / "b", apart)
  assert shared.branch_ids.shape[:2] == (3, 4)
  assert rows.branch_ids.shape[:2] == (6, 2)
  counts = logps.counts(shared)
  assert int((counts.chosen > 0).sum()) == 6  # of the nine that there is room
  _same(run(_drop_noise(shared)), run(_drop_noise(rows)))


def test_weights_multiply_log_ratios_before_the_sum(world, run, tmp_path):
  """Against per-token log-probs from plain logits, summed in NumPy."""
  graph, frozen, adapters = world
  records = [small_world.record(i, rejected_weight=0.25) for i in range(3)]
  batch = _drop_noise(
    small_world.batch_of(tmp_path, records, changed_weight=3.0)
  )
  assert set(np.unique(batch.branch_weight)) >= {0.0, 0.25, 1.0, 3.0}
  zero = {k: jnp.zeros_like(v) for k, v in adapters.items()}
  sums = []
  for own in (adapters, zero):
    model = params_lib.merge(graph, frozen.params, own)
    for n in (0, 1):
      logits = plain_model.predictions(
        model, batch, n, model.encode_images(batch.images)
      )
      tokens = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits), np.float64),
        batch.branch_ids[:, n, :, None],
        axis=-1,
      )[..., 0]
      kept = batch.loss_mask[:, n] * batch.branch_weight[:, n]
      sums.append((tokens * kept).sum(-1))
  chosen, rejected = sums[0] - sums[2], sums[1] - sums[3]
  log_s = lambda x: -np.log1p(np.exp(-x))
  want = -log_s(0.5 * (chosen - rejected)) - 0.2 * log_s(0.5 * chosen)
  got, gradient = run(batch)
  assert float(got) == pytest.approx(want.mean(), rel=1e-5)
  plain, _ = run(
    batch._replace(branch_weight=np.ones_like(batch.branch_weight))
  )
  assert abs(float(plain) - float(got)) > 1e-2
  _check_slope(world, run, batch, gradient)


def _check_slope(world, run, batch, gradient):
  """The gradient along itself is the finite difference of the loss."""
  _, _, adapters = world
  size = float(np.sqrt(sum(float((g**2).sum()) for g in gradient.values())))
  step = 1e-2 / size

  def loss(by):
    moved = {k: v + by * gradient[k] for k, v in adapters.items()}
    return float(run(batch, moved)[0])

  rise = (loss(step) - loss(-step)) / (2 * step)
  assert rise == pytest.approx(size**2, rel=2e-2)


def test_weights_of_one_are_none(run, tmp_path):
  batch = _drop_noise(
    small_world.batch_of(tmp_path, [small_world.record(i) for i in range(3)])
  )
  assert batch.branch_weight is None
  ones = batch._replace(
    branch_weight=np.ones(batch.branch_ids.shape, np.float32)
  )
  plain, weighted = run(batch), run(ones)
  assert float(plain[0]) == pytest.approx(float(weighted[0]), rel=1e-6)
