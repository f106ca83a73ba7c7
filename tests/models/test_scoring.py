"""The vocabulary head in chunks, on one device and cut over eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from povid_jax.models import sharding
from povid_jax.models.layers import float32_product
from povid_jax.models.partition import gathered
from povid_jax.models.scoring import argmax_tokens, token_logps
from povid_jax.plan import program

B, N, C, D, V = 8, 2, 12, 32, 96
MESHES = {
  "data": (8, 1, 1),
  "fsdp": (1, 8, 1),
  "data and fsdp": (2, 4, 1),
  "all": (2, 2, 2),
}


def _arrays():
  random = np.random.default_rng(0)
  hidden = random.normal(size=(B, N, C, D)).astype(np.float32)
  kernel = random.normal(size=(D, V)).astype(np.float32)
  return hidden, kernel, random.integers(0, V, (B, N, C, 2))


def _loss(hidden, kernel, targets, chunk):
  kernel = gathered(kernel, None, "tensor")
  head = lambda h: float32_product(h, kernel)
  logps = token_logps(head, hidden, targets, chunk)
  # a weight for each, so that no two tokens can be swapped
  weight = jnp.arange(logps.size).reshape(logps.shape) / logps.size
  return (weight * logps).sum()


def _mesh(name):
  sizes = dict(zip(sharding.AXES, MESHES[name], strict=True))
  return sharding.make_mesh(sizes, jax.devices()[:8])


def _placed(mesh):
  hidden, kernel, targets = _arrays()
  rows = NamedSharding(mesh, P(*sharding.BATCH))
  place = sharding.sharding_for(mesh)("decoder/lm_head/kernel", kernel.shape)
  put = jax.device_put
  return put(hidden, rows), put(kernel, place), put(targets, rows)


@pytest.mark.parametrize("name", MESHES)
def test_more_chunks_send_nothing_more(name):
  """Each device scores its own examples, the frozen kernel is gathered once."""
  mesh = _mesh(name)
  run = jax.jit(jax.value_and_grad(_loss), static_argnames="chunk")
  found = {}
  with jax.set_mesh(mesh):
    for chunk in (N * C // 2, 4, 1):  # rows of a device, always several chunks
      lowered = run.lower(*_placed(mesh), chunk=chunk)
      found[chunk] = program.of(lowered.compile())
  halves, *parts = found.values()
  for each in parts:
    assert each.bytes == pytest.approx(halves.bytes, rel=0.05)
    # nobody scores the examples of another device
    assert each.flops == pytest.approx(halves.flops, rel=0.02)


@pytest.mark.parametrize("name", MESHES)
def test_cut_over_devices_it_is_the_same(name):
  chunk = 5  # does not divide a device's rows
  want = jax.value_and_grad(_loss, (0, 1))(*_arrays(), chunk)
  mesh = _mesh(name)
  run = jax.jit(jax.value_and_grad(_loss, (0, 1)), static_argnames="chunk")
  with jax.set_mesh(mesh):
    got = run(*_placed(mesh), chunk=chunk)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, got, want)


@pytest.mark.parametrize("chunk", [1, 10, 1000])
def test_argmax_in_chunks(chunk):
  hidden, kernel, targets = _arrays()
  head = lambda h: float32_product(h, jnp.asarray(kernel))
  got = argmax_tokens(head, jnp.asarray(hidden), None, chunk)
  logits = hidden @ kernel
  np.testing.assert_array_equal(got, logits.argmax(-1))
  barred = argmax_tokens(head, jnp.asarray(hidden), got, chunk)
  np.testing.assert_array_equal(barred, np.argsort(logits)[..., -2])
