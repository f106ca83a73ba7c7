"""Kernels in 8 or 4 bits: what is stored, and what it stands for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from povid_jax.errors import UserError
from povid_jax.models import quantised


def _back(kernel, kind, dtype=jnp.float32):
  stored, scale = quantised.quantise(kernel, kind)
  return stored, scale, quantised.dequantise(stored, scale, dtype)


@pytest.mark.parametrize(("kind", "step"), [("int8", 1 / 127), ("nf4", 0.304)])
def test_what_is_stored_is_qwix_and_near(kind, step):
  kernel = np.random.default_rng(0).normal(size=(3, 192, 8)).astype("float32")
  kernel[0, :64, 0] = 0  # a tile without a largest value
  kernel = jnp.asarray(kernel)
  run = jax.jit(functools.partial(_back, kind=kind))
  stored, scale, back = run(kernel)
  assert stored.shape == ((3, 192, 8) if kind == "int8" else (3, 96, 8))
  assert stored.dtype == ("int8" if kind == "int8" else "uint8")
  assert scale.shape == (3, 3, 8) and scale.dtype == jnp.bfloat16
  top = np.abs(np.asarray(kernel).reshape(3, 3, 64, 8)).max(2).repeat(64, 1)
  # half a step, and 2^-8 of bfloat16's scale
  error = np.abs(np.asarray(back) - np.asarray(kernel))
  assert (error <= (step / 2 + 1 / 256) * top + 1e-7).all()
  assert (np.asarray(back)[0, :64, 0] == 0).all()
  theirs = qwix.quantize(
    kernel,
    jnp.int8 if kind == "int8" else "nf4",
    channelwise_axes=(0, 2),
    tiled_axes={1: 64},
    scale_dtype=jnp.bfloat16,
  )
  want = qwix.dequantize(theirs.astype(jnp.float32))
  if jax.__version_info__ > (0, 10, 0):
    np.testing.assert_array_equal(back, want)
  # compiled as one program, jax 0.10.0 rounds a quotient between two codes to
  # the other one
  far = np.abs(np.asarray(back) - np.asarray(want))
  assert (far > 0).mean() < 0.01 and (far <= 1.01 * step * top).all()


def test_nf4_wants_pairs_of_rows():
  with pytest.raises(UserError, match="a kernel has 15 rows"):
    quantised.quantise(jnp.ones((15, 4)), "nf4")


def test_only_kernels_of_layers():
  array = jnp.ones((2, 64, 4))
  for path in (
    "decoder/layers/mlp/up_proj/lora_a",
    "decoder/lm_head/kernel",
    "vision/layers/self_attn/q_proj/bias",
    "projector/linear_1/kernel",
  ):
    assert list(quantised.store(path, array, "nf4")) == [path]
  path = "decoder/layers/self_attn/q_proj/kernel"
  held = quantised.store(path, array, "nf4")
  assert list(held) == [path, f"{path}_scale"]
  assert sum(quantised.numbers(p, leaf) for p, leaf in held.items()) == 512
  assert quantised.store(path, held[path], "nf4") == {path: held[path]}
