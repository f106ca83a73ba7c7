"""The last layer for a part of the tokens is the whole last layer's part."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from povid_jax.models import params
from povid_jax.models.config import DecoderConfig, LlavaConfig, LoraConfig
from tests import small_world

B, T, TAIL = 2, 11, 4
SMALL = LlavaConfig(
  decoder=DecoderConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
  )
)


def attend(q, k, v, _):
  """Causal; the queries are the last ones of the row."""
  key = jnp.arange(k.shape[1])
  seen = key[-q.shape[1] :, None] >= key[None]
  out = jax.nn.dot_product_attention(q, k, v, mask=seen[None, None])
  return out, (k, v)


def _case(layers, lora, **options):
  decoder = dataclasses.replace(SMALL.decoder, num_layers=layers)
  config = dataclasses.replace(SMALL, decoder=decoder)
  graph, shapes = params.abstract(config, lora)
  random = np.random.default_rng(0)
  arrays = {
    path: jnp.asarray(0.2 * random.normal(size=leaf.shape), jnp.float32)
    for path, leaf in shapes.items()
    if path.startswith("decoder")
  }
  rest = {path: x for path, x in shapes.items() if path not in arrays}
  rest = {path: jnp.zeros(x.shape) for path, x in rest.items()}
  x = jnp.asarray(random.normal(size=(B, T, 32)), jnp.float32)
  weight = jnp.asarray(random.normal(size=(B, TAIL, 32)), jnp.float32)
  positions = jnp.broadcast_to(jnp.arange(T), (B, T))

  def loss(trained, others, x, tail):
    model = params.merge(graph, {**rest, **others, **trained})
    hidden, (k, v) = model.decoder(x, positions, attend, tail=tail, **options)
    total = (hidden[:, -TAIL:] * weight).sum() + (k * k).sum()
    return total, (hidden[:, -TAIL:], k, v)

  return loss, arrays, x


OTHERS = ("attention", "mlp", "dots")  # remat that keeps a part
FAST = {
  ("adapters", 10, "none"),
  ("adapters", 10, "full"),
  ("all", 3, "none"),
  ("all, with adapters", 10, "full"),
}
CASES = [
  pytest.param(*case, marks=() if case in FAST else pytest.mark.slow)
  for case in itertools.product(
    ("adapters", "all", "all, with adapters"),
    (1, 3, 10),
    ("none", "full", "dots"),
  )
]


@pytest.mark.parametrize(("train", "layers", "remat"), CASES)
def test_a_short_last_layer(train, layers, remat):
  lora = None if train == "all" else LoraConfig(rank=2, alpha=4.0)
  loss, arrays, x = _case(layers, lora, remat=remat)
  chosen = params.is_lora if train == "adapters" else lambda path: True
  trained = {path: v for path, v in arrays.items() if chosen(path)}
  others = {path: v for path, v in arrays.items() if not chosen(path)}
  run = jax.jit(
    jax.value_and_grad(loss, argnums=(0, 2), has_aux=True), static_argnums=3
  )
  got, want = run(trained, others, x, TAIL), run(trained, others, x, None)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
  jax.tree.map(close, got, want)
  moved = {path: float(abs(g).max()) > 0 for path, g in got[1][0].items()}
  assert all(moved[path] for path in moved if "layers" in path)


@pytest.mark.parametrize(
  "remat",
  ["full", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)],
)
def test_a_loop_copies_no_frozen_weights(remat):
  """Neither to leave out the last layer nor to keep them for the gradient."""
  lora = LoraConfig(rank=2, alpha=4.0)
  loss, arrays, x = _case(40, lora, remat=remat)
  trained = {path: v for path, v in arrays.items() if params.is_lora(path)}
  others = {path: v for path, v in arrays.items() if not params.is_lora(path)}
  frozen = sum(v.nbytes for path, v in others.items() if "layers" in path)
  adapters = sum(v.nbytes for v in trained.values())
  assert adapters < frozen / 5

  def temporaries(tail):
    run = jax.jit(jax.grad(loss, has_aux=True), static_argnums=3)
    compiled = run.lower(trained, others, x, tail).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  # without their last layer the adapters are a copy
  assert temporaries(TAIL) - temporaries(None) < 1.2 * adapters


def test_prefill_of_the_last_token_alone(tmp_path):
  config = small_world.MODEL
  batch = small_world.batch_of(tmp_path, small_world.odd_records())
  assert len(set(map(int, batch.prefix_len))) > 1  # rows with padding
  graph, _ = params.abstract(config)
  weights = jax.tree.map(jnp.asarray, small_world.arrays(config))

  @jax.jit
  def both(weights, batch):
    model = params.merge(graph, weights)
    given = batch.prefix_ids, model.encode_images(batch.images)
    return model.prefill(*given), model.prefill(
      *given, prefix_len=batch.prefix_len
    )

  (whole, want), (got, cache) = both(weights, batch.for_model())
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  for row, length in enumerate(batch.prefix_len):
    close(got[row, 0], whole[row, length - 1])
  jax.tree.map(close, cache, want)
