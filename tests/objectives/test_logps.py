"""Prefix and branches against whole sequences, and what noise tokens are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from povid_jax import objectives
from povid_jax.models import params as params_lib
from povid_jax.models.config import LoraConfig
from povid_jax.models.scoring import token_logps
from povid_jax.models.vit import normalise
from povid_jax.objectives import Logps, Needs, logps, weighted_mean
from povid_jax.objectives.logps import Spec
from tests import plain_model, small_world

ALL = Needs(rejected=True, noise="own", corrupted=True)
SPEC = Spec(ALL, head_chunk=7)  # chunks that do not divide the rows
LORA = LoraConfig(rank=2, alpha=4.0)
OBJECTIVES = {
  "sft": {},
  "dpo": {},
  "dpo hinge": {"loss_type": "hinge"},
  "dpo ipo": {"loss_type": "ipo"},
  "dpo smoothed": {"label_smoothing": 0.1},
  "dpo and sft": {"sft_weight": 0.5},
  "dpo by length": {"length_normalised": True},
  "povid": {},
  "povid_shared": {},
  "povid_paper": {},
  "mdpo": {},
  "dpo anchored": {"anchor_weight": 0.5, "anchor": 0.1},
  "povid anchored": {"anchor_weight": 0.5},
  "mpo": {},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """(graph, parameters by path, batch of odd rows and one that fills it).

  Some have a context, weights, or three rejected answers.
  """
  graph, shapes = params_lib.abstract(small_world.MODEL, LORA)
  random = np.random.default_rng(1)
  params = small_world.arrays()
  for path, leaf in shapes.items():
    if params_lib.is_lora(path):
      params[path] = random.normal(0, 0.2, leaf.shape).astype(np.float32)
  root = tmp_path_factory.mktemp("forward")
  records = [*small_world.odd_records(), *small_world.rich_records()]
  batch = small_world.batch_of(root, records, fillers=1)
  shape = batch.branch_ids[:, 0].shape
  noise_ids = random.integers(0, 400, shape, dtype=np.int32)
  return graph, jax.tree.map(jnp.asarray, params), batch, noise_ids


def _embeds(model, batch):
  return (
    model.encode_images(batch.images),
    model.encode_images(batch.images_noisy),
  )


def ours(model, batch, noise_ids, spec=SPEC):
  batch = jax.tree.map(jnp.asarray, batch)
  pictures = logps.encode(model, batch, spec, adapter=True)
  return logps.per_pair(
    logps.score(
      model, batch, pictures, spec, adapter=True, noise_ids=noise_ids
    ),
    batch,
  )


def plain(model, batch, noise_ids):
  clean, noisy = _embeds(model, batch)
  of_chosen = plain_model.predictions(model, batch, 0, clean)
  rejected = [plain_model.score(model, batch, n, clean) for n in (1, 2, 3)]
  each_pair = lambda x: jnp.repeat(x, len(rejected))
  return Logps(
    chosen=each_pair(plain_model.pick(of_chosen, batch, 0)),
    rejected=jnp.stack(rejected, axis=1).reshape(-1),
    noise=each_pair(plain_model.pick(of_chosen, batch, 0, noise_ids)),
    corrupted=each_pair(plain_model.score(model, batch, 0, noisy)),
  )


def unshared(model, batch, noise_ids):
  spec = dataclasses.replace(SPEC, share_prefix=False)
  return ours(model, batch, noise_ids, spec)


@pytest.fixture(scope="module")
def pulled(world):
  """Function of a name: (function from cotangents to gradients, logps)."""
  graph, params, batch, noise_ids = world

  def jitted(fn):
    def run(params, cotangent):
      score = lambda p: fn(params_lib.merge(graph, p), batch, noise_ids)
      sums, pull = jax.vjp(score, params)
      return sums, pull(cotangent)[0]

    return jax.jit(run)

  pairs = len(batch.index) * (batch.branch_ids.shape[1] - 1)
  zero = Logps(*[jnp.zeros(pairs)] * 4)

  @functools.cache  # compiled where it is asked for: that is what takes long
  def get(name):
    run = jitted({"ours": ours, "unshared": unshared, "plain": plain}[name])
    return run, run(params, zero)[0]

  return get


def _reference(sums):
  """Some other model's log-probs of the same answers."""
  shift = lambda x, by: jax.lax.stop_gradient(x) + by
  steps = (0.3, -0.7, 0.2, 0.9)
  return Logps(*(shift(x, s) for x, s in zip(sums, steps, strict=True)))


# The fast suite has this of whole steps (training/test_step.py), and of
# contexts, weights and several rejected answers (test_weights.py).
@pytest.mark.slow
@pytest.mark.parametrize("other", ["unshared", "plain"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_every_gradient(name, other, world, pulled):
  _, params, batch, _ = world
  objective = objectives.get(name.split()[0], **OBJECTIVES[name])
  counts = logps.counts(batch)
  weights = objective.weights(counts)
  reference = _reference(pulled(other)[1])

  def loss(sums):
    return weighted_mean(objective.fn(sums, reference, counts)[0], weights)

  result = {}
  for which in ("ours", other):
    run, sums = pulled(which)
    value, cotangent = jax.value_and_grad(loss)(sums)
    result[which] = value, run(params, cotangent)[1]
  value, gradients = result[other]
  assert float(result["ours"][0]) == pytest.approx(float(value), rel=1e-5)
  # one leaf in sight of a wrong mask or index moves by far more
  sizes = {k: float(jnp.abs(g).max()) for k, g in gradients.items()}
  assert max(sizes.values()) > 1e-4
  # a softmax does not see a bias on keys; two parts of the tower do not run
  nothing = [k for k, v in sizes.items() if v < 1e-6 * max(sizes.values())]
  assert set(nothing) <= {
    "vision/layers/self_attn/k_proj/bias",
    "vision/post_layernorm/bias",
    "vision/post_layernorm/scale",
  }
  far = small_world.relative_difference(result["ours"][1], gradients)
  assert {k: v for k, v in far.items() if v > 1e-5} == {}


@pytest.mark.slow
def test_filler_rows_score_nothing(pulled):
  for which in ("ours", "unshared"):
    assert [float(x[-1]) for x in pulled(which)[1]] == [0.0] * 4


@pytest.mark.parametrize("exclude_gold", [False, True])
def test_noise_tokens_are_the_argmax_under_noise(exclude_gold, world):
  graph, params, batch, _ = world
  model = params_lib.merge(graph, params)
  spec = dataclasses.replace(SPEC, exclude_gold=exclude_gold)

  @jax.jit
  def both(batch):
    pictures = logps.encode(model, batch, spec, adapter=True)
    return logps.noise_tokens(model, batch, pictures, spec, adapter=True)

  noisy = jax.jit(model.encode_images)(batch.images_noisy)
  plain = jax.jit(lambda x: plain_model.predictions(model, batch, 0, x))
  logits = np.array(plain(noisy))
  gold = batch.branch_ids[:, 0]
  if exclude_gold:
    np.put_along_axis(logits, gold[..., None], -np.inf, axis=-1)
  mask = batch.loss_mask[:, 0]
  mine = np.asarray(both(batch))
  np.testing.assert_array_equal(mine[mask], logits.argmax(-1)[mask])
  if exclude_gold:
    assert (mine != gold).all()


def test_chunked_head_is_the_naive_head():
  random = np.random.default_rng(0)
  hidden = jnp.asarray(random.normal(size=(2, 3, 7, 16)), jnp.float32)
  kernel = jnp.asarray(random.normal(size=(16, 50)), jnp.float32)
  targets = jnp.asarray(random.integers(0, 50, (2, 3, 7, 2)))
  head = lambda kernel: lambda h: h @ kernel

  def naive(hidden, kernel):
    every = jax.nn.log_softmax(hidden @ kernel)
    return jnp.take_along_axis(every, targets, axis=-1)

  weight = jnp.asarray(random.normal(size=targets.shape), jnp.float32)
  total = lambda fn: lambda h, k: (weight * fn(h, k)).sum()
  want = jax.value_and_grad(total(naive), (0, 1))(hidden, kernel)
  for chunk in (1, 5, 23, 42, 64):
    mine = lambda h, k, chunk=chunk: token_logps(head(k), h, targets, chunk)
    got = jax.value_and_grad(total(mine), (0, 1))(hidden, kernel)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
      got,
      want,
    )


def test_noise_at_the_pixels(world, tmp_path):
  graph, params, _, _ = world
  batch = small_world.batch_of(
    tmp_path, small_world.odd_records(), site="pixels"
  )
  assert batch.images_noisy is None
  model = params_lib.merge(graph, params)
  keep, add = 0.6, 0.8
  spec = Spec(ALL, noise_scale=(keep, add))
  run = jax.jit(
    lambda batch: logps.encode(model, batch, spec, adapter=True).noisy
  )
  got = np.asarray(run(batch))
  images = jnp.asarray(batch.images[1:2])
  eps = jax.random.normal(jax.random.key(batch.noise_seed[1]), images.shape[1:])
  pixels = keep * normalise(images) + add * eps[None]
  want = jax.jit(lambda x: model.projector(model.vision(x)))(pixels[0])
  # row 1 has one picture of the two that a row has room for
  tokens = small_world.MODEL.image_tokens
  np.testing.assert_allclose(got[1, :tokens], want[0], rtol=2e-5, atol=2e-5)
  other = batch._replace(noise_seed=batch.noise_seed + np.uint32(1))
  assert np.abs(np.asarray(run(other)) - got).max() > 1e-3
