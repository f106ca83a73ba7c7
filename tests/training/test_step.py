"""The step against a loss written out plainly, and the ways to cut a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from povid_jax import objectives
from povid_jax.data import batch as batch_lib
from povid_jax.models import params as params_lib
from povid_jax.models.config import LoraConfig
from povid_jax.objectives import Logps, logps, weighted_mean
from povid_jax.objectives.logps import Spec
from povid_jax.training import optim
from povid_jax.training.step import Frozen, State, StepFn
from tests import plain_model, small_world

LORA = LoraConfig(rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """(graph, parameters by path, what they were, batch of five odd pairs)."""
  graph, shapes = params_lib.abstract(small_world.MODEL, LORA)
  random = np.random.default_rng(1)
  before = small_world.arrays()
  moved = lambda x: x + random.normal(0, 0.02, x.shape).astype(np.float32)
  params = {path: moved(x) for path, x in before.items()}
  for path, leaf in shapes.items():
    if params_lib.is_lora(path):
      params[path] = random.normal(0, 0.2, leaf.shape).astype(np.float32)
  root = tmp_path_factory.mktemp("step")
  batch = small_world.batch_of(root, small_world.odd_records())
  return graph, *jax.tree.map(jnp.asarray, (params, before)), batch


def make(graph, name, transform=None, **options):
  objective = objectives.get(name, **options.pop("hyper", {}))
  return StepFn(
    graph,
    objective,
    Spec(objective.needs, head_chunk=64, **options),
    optim.finite_guard(transform or optax.sgd(1.0)),
  )


@pytest.fixture(scope="module")
def plain(world):
  """Function of (objective, rows) to its loss and gradients, plainly.

  Whole sequences and full logits. One program, whose compilation is what takes
  long, gives all sums that any objective reads; the loss is made of them.
  """
  graph, params, before, everything = world
  zero = {k: jnp.zeros_like(v) for k, v in params.items() if "lora" in k}

  def noise_tokens(model, batch):
    noisy = model.encode_images(batch.images_noisy)
    return plain_model.predictions(model, batch, 0, noisy).argmax(-1)

  def sums(model, batch, tokens):
    clean = model.encode_images(batch.images)
    noisy = model.encode_images(batch.images_noisy)
    of_chosen = plain_model.predictions(model, batch, 0, clean)
    return Logps(
      chosen=plain_model.pick(of_chosen, batch, 0),
      rejected=plain_model.score(model, batch, 1, clean),
      noise=plain_model.pick(of_chosen, batch, 0, tokens),
      corrupted=plain_model.score(model, batch, 0, noisy),
    )

  @functools.cache
  def programs(first, last):
    batch = jax.tree.map(lambda x: x[first:last], everything)

    @jax.jit
    def tokens_of(params):
      return noise_tokens(params_lib.merge(graph, params), batch)

    @jax.jit
    def pulled(params, tokens, cotangent):
      score = lambda p: sums(params_lib.merge(graph, p), batch, tokens)
      value, pull = jax.vjp(score, params)
      return value, pull(cotangent)[0]

    return batch, tokens_of, pulled

  def run(objective, rows):
    batch, tokens_of, pulled = programs(rows.start, rows.stop)
    needs = objective.needs
    read = Logps(True, needs.rejected, needs.noise, needs.corrupted)
    only = lambda values: Logps(
      *(x if wanted else None for x, wanted in zip(values, read, strict=True))
    )
    nothing = Logps(*[jnp.zeros(len(batch.index))] * 4)
    reference = {**before, **zero}
    mine = tokens_of(params)
    theirs = mine if needs.noise == "policy" else tokens_of(reference)
    of_policy = pulled(params, mine, nothing)[0]
    of_reference = pulled(reference, theirs, nothing)[0]
    counts = logps.counts(batch)
    weights = objective.weights(counts)

    def loss(values):
      fixed = only(of_reference) if needs.reference else None
      return weighted_mean(
        objective.fn(only(values), fixed, counts)[0], weights
      )

    value, cotangent = jax.value_and_grad(loss)(of_policy)
    return value, pulled(params, mine, cotangent)[1]

  return run


slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
ALL, TWO = slice(None), slice(2, 4)


# The plain program grows with the pairs: the fast suite takes two ragged ones,
# one with two pictures and one of several turns.
@pytest.mark.parametrize(
  "name, rows",
  [
    *((name, TWO) for name in ("povid", "dpo")),
    slow("mdpo", TWO),
    *(
      slow(name, ALL)
      for name in "povid dpo mdpo sft povid_shared povid_paper mpo".split()
    ),
  ],
)
def test_loss_and_every_gradient(name, rows, world, plain):
  """All of the model is trained: tower, projector, decoder and adapters."""
  graph, params, before, batch = world
  batch = jax.tree.map(lambda x: x[rows], batch)
  step = make(graph, name)
  counts = logps.counts(batch)
  total = step.objective.weights(counts).sum()
  carried = dict(step.objective.carries)
  gradients, metrics = jax.jit(step._gradients)(
    State(jnp.int32(0), params, None, carried), Frozen({}, before), batch, total
  )
  value, wanted = plain(step.objective, rows)
  assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
  ran = {k for k, g in wanted.items() if float(jnp.abs(g).max())}
  assert len(ran) > 0.7 * len(wanted)
  far = small_world.relative_difference(gradients, wanted)
  assert {k: v for k, v in far.items() if v > 1e-5} == {}


def _train_lora(params):
  trained = {k: v for k, v in params.items() if params_lib.is_lora(k)}
  return trained, {k: v for k, v in params.items() if k not in trained}


def _start(step, params):
  trained, frozen = _train_lora(params)
  state = State(jnp.int32(0), trained, step.optimizer.init(trained))
  return state, Frozen(frozen, {})


def _cut(batch, rows, parts):
  """[parts, b, ...] of some rows; None makes a filler row."""
  one = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch
  )
  filler = batch_lib.filler(one)
  pick = lambda r: jax.tree.map(lambda x: x[r], batch)
  made = batch_lib.stack([filler if r is None else pick(r) for r in rows])
  return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), made)


@pytest.fixture(scope="module", params=[slow("povid"), "sft"])
def cut_step(request, world):
  """(step, function from (rows, parts) to (new parameters, metrics))."""
  graph, params, _, batch = world
  step = make(graph, request.param)
  jitted = jax.jit(step)
  state, frozen = _start(step, params)

  def run(rows, parts, state=state):
    new, metrics = jitted(state, frozen, _cut(batch, rows, parts))
    return new, {k: float(v) for k, v in metrics.items()}

  return step, state, run


def _same(one, other):
  assert one[1] == pytest.approx(other[1], rel=2e-5, abs=2e-6)
  far = small_world.relative_difference(one[0].params, other[0].params)
  assert max(far.values()) < 1e-5


def test_microbatches_are_one_big_batch(cut_step):
  _, state, run = cut_step
  big, small = run((0, 1, 3, 4), 1), run((0, 1, 3, 4), 2)
  _same(small, big)
  moved = small_world.relative_difference(big[0].params, state.params)
  assert max(moved.values()) > 1e-3
  assert big[1]["rows_used"] == 4


def test_filler_rows_change_nothing(cut_step):
  _, _, run = cut_step
  two = run((1, 4), 1)
  _same(run((1, 4, None, None), 2), two)
  _same(run((None, 1, None, 4), 1), two)
  assert two[1]["rows_used"] == 2


def test_a_batch_of_fillers_is_finite(cut_step):
  _, state, run = cut_step
  new, metrics = run((None, None), 1)
  assert metrics["loss"] == 0 and metrics["finite"] == 1
  assert metrics["grad_norm"] == 0


def test_a_step_that_is_not_finite_changes_nothing(cut_step):
  _, state, run = cut_step
  path = "decoder/layers/self_attn/q_proj/lora_b"
  bad = {**state.params, path: state.params[path].at[0, 0, 0].set(jnp.nan)}
  new, metrics = run((1, 4), 1, state._replace(params=bad))
  assert np.isnan(metrics["loss"])
  assert (metrics["finite"], metrics["skipped"]) == (0, 1)
  for name, array in bad.items():
    np.testing.assert_array_equal(new.params[name], array)
  assert int(new.step) == 1  # the run goes on with the next batch


def test_cached_log_probs_are_used(world):
  """dpo with cached terms runs no reference, and gives the same loss."""
  graph, params, _, batch = world
  step = make(graph, "dpo")
  state, frozen = _start(step, params)
  cut = _cut(batch, (0, 1), 1)
  fixed = jax.jit(lambda *args: logps.fixed_reference(graph, *args, step.spec))(
    frozen, state.params, jax.tree.map(lambda x: x[0], cut)
  )
  online = jax.jit(step)(state, frozen, cut)[1]
  fixed = jax.tree.map(lambda x: x[None], fixed)
  cached = cut._replace(reference=fixed)
  got = jax.jit(step)(state, frozen, cached)[1]
  assert float(got["loss"]) == pytest.approx(float(online["loss"]), rel=1e-6)
  cached = cut._replace(reference=fixed._replace(chosen=fixed.chosen + 1.0))
  assert float(jax.jit(step)(state, frozen, cached)[1]["loss"]) != float(
    online["loss"]
  )
