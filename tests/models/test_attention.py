"""Attention in blocks of queries against whole squares of weights."""

import functools

import jax
import numpy as np
import pytest

from povid_jax.models.attention import queries, self_attention


@pytest.mark.parametrize("window", [None, 1, 50, 128, 131, 290])
@pytest.mark.parametrize("length", [128, 129, 300])
def test_causal_blocks(length, window):
  """Values and gradients; windows within a block, over its border, over two."""
  keys = jax.random.split(jax.random.key(length), 4)
  q, upstream = (jax.random.normal(key, (2, length, 4, 8)) for key in keys[:2])
  k, v = (jax.random.normal(key, (2, length, 2, 8)) for key in keys[2:])
  blocks = lambda *x: self_attention(*x, causal=True, window=window)
  whole = functools.partial(
    jax.nn.dot_product_attention,
    is_causal=True,
    local_window_size=None if window is None else (window - 1, 0),
  )

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
