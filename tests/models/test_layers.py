"""Products in the order that XLA's CPU backend is quick with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from povid_jax.models.layers import low_rank_product
from povid_jax.models.llama import Llama
from tests import small_world


@pytest.mark.parametrize("inputs, outputs", [(48, 4), (4, 48), (7, 7)])
def test_gradients_of_low_rank_products(inputs, outputs):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (3, 5, inputs))
  factor = jax.random.normal(keys[1], (inputs, outputs))
  upstream = jax.random.normal(keys[2], (3, 5, outputs))

  def all_of(product):
    out, back = jax.vjp(product, x, factor)
    return out, *back(upstream)

  for got, want in zip(
    all_of(jax.jit(low_rank_product)), all_of(jnp.matmul), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 32, 33])
@pytest.mark.parametrize("tied", [False, True])
def test_an_unstacked_decoder_computes_the_same(rows, tied):
  """With kernels in either order: as a few rows take them, and as usual."""
  config = dataclasses.replace(
    small_world.MODEL.decoder, tie_embeddings=tied, attention_bias=True
  )
  attend = lambda q, k, v, _: (q + jnp.tile(v, (1, 1, 2, 1)), None)

  def logits(model, inputs):
    x = model.embed(jnp.arange(rows)[:, None], jnp.float32)
    positions = jnp.full((rows, 1), 3, jnp.int32)
    hidden, _ = model(x, positions, attend, inputs=inputs)
    return model.logits(hidden)

  model = Llama(config, nnx.Rngs(0))
  want = logits(model, None)
  model.unstack(rows)
  assert model.few_rows == (rows <= 32)
  got = logits(model, [None] * config.num_layers)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
