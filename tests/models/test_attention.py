"""Attention in blocks of queries against whole squares of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from povid_jax.models.attention import queries, self_attention


def _whole(q, k, v, window):
  """Softmax over all keys of every query; heads copied for their group."""
  group = q.shape[2] // k.shape[2]
  k, v = (jnp.repeat(x, group, axis=2) for x in (k, v))
  age = jnp.arange(q.shape[1])[:, None] - jnp.arange(q.shape[1])[None]
  seen = age >= 0
  if window is not None:
    seen &= age < window
  logits = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
  weights = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf), axis=-1)
  return jnp.einsum("bhts,bshd->bthd", weights, v)


@pytest.mark.parametrize("window", [None, 1, 50, 128, 131, 290])
@pytest.mark.parametrize("length", [128, 129, 300])
def test_causal_blocks(length, window):
  """Values and gradients; windows within a block, over its border, over two."""
  keys = jax.random.split(jax.random.key(length), 4)
  q, upstream = (jax.random.normal(key, (2, length, 4, 8)) for key in keys[:2])
  k, v = (jax.random.normal(key, (2, length, 2, 8)) for key in keys[2:])
  blocks = lambda *x: self_attention(*x, causal=True, window=window)
  whole = lambda q, k, v: _whole(q, k, v, window)

  def both(fn):
    out, back = jax.vjp(fn, q, k, v)
    return out, *back(upstream)

  for got, want in zip(
    jax.jit(both, static_argnums=0)(blocks), both(whole), strict=True
  ):
    np.testing.assert_allclose(got, want, atol=5e-6)


def test_blocks_are_few_and_cover_the_length():
  for length in (1, 127, 128, 616, 2048, 2049, 33_000):
    size = queries(length)
    assert 1 <= size <= length
    assert -(-length // size) <= 16
