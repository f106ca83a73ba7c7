"""Products with frozen kernels in 8 bits: int8, or float8 (`config.matmul`).

A kernel is quantised once, with a scale for each column; activations are
quantised when they are multiplied, with a scale for each row (token). Scales
stand outside the sum, so the product is one `dot_general` of 8-bit operands,
which chips that have such products run at twice the speed of bfloat16.
(Operands that are rounded to 8 bits and converted back would be multiplied in
bfloat16.)
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

KERNELS = {"int8": jnp.dtype(jnp.int8), "fp8": jnp.dtype(jnp.float8_e4m3fn)}
_SMALLEST = float(jnp.finfo(jnp.float32).tiny)


def quantise(x: Array, dtype: Any, axis: int) -> tuple[Array, Array]:
  """Codes of this dtype, and float32 scales of size 1 along `axis`.

  x is codes * scale up to half a step. Where x has NaN or infinity the scale
  is not finite, so that it does not pass unseen.
  """
  whole = jnp.issubdtype(dtype, jnp.integer)
  most = float((jnp.iinfo if whole else jnp.finfo)(dtype).max)
  x = x.astype(jnp.float32)
  largest = jnp.abs(x).max(axis=axis, keepdims=True)
  scale = jnp.maximum(largest / most, _SMALLEST)
  codes = jnp.clip(x / scale, -most, most)  # a conversion may not saturate
  return (jnp.round(codes) if whole else codes).astype(dtype), scale


@jax.custom_vjp
def product(x: Array, kernel: Array, scale: Array) -> Array:
  """x W of float[..., D] and a kernel of `quantise`, in the dtype of x.

  The kernel has no gradient: it is frozen, and no small step of training would
  change a code. The gradient to x is that of x W, as if x were not rounded,
  and a product of 8-bit operands as well.

  Args:
    kernel: int8 or float8[D, F].
    scale: float32[1, F].
  """
  codes, rows = quantise(_settled(x, x.dtype), kernel.dtype, -1)
  out = _dot(codes, kernel, 0, x.dtype) * rows
  return _settled(out * _as_row(scale, out), x.dtype).astype(x.dtype)


def _forward(x: Array, kernel: Array, scale: Array) -> tuple[Array, Any]:
  return product(x, kernel, scale), (kernel, scale)


def _backward(kept: tuple[Array, Array], ct: Array) -> tuple[Array, None, None]:
  kernel, scale = kept
  # the columns are summed here: their scales cannot stay outside the sum
  scaled = ct.astype(jnp.float32) * _as_row(scale, ct)
  codes, rows = quantise(scaled, kernel.dtype, -1)
  out = _dot(codes, kernel, 1, ct.dtype) * rows
  return out.astype(ct.dtype), None, None


product.defvjp(_forward, _backward)


def _settled(x: Array, dtype: Any) -> Array:
  """float32: x with the digits of this dtype, as every compiler gives it.

  Policy and reference must have the same bits where the adapter adds zero: one
  flipped code makes a margin that is not zero. What follows is not the same in
  both, and a compiler that fuses it with x may keep digits that x has not (a
  multiplication and an addition rounded once, a conversion to bfloat16 and
  back left out). It keeps to an explicit rounding; to 22 bits in float32,
  where all 23 would round nothing and be left out as well.
  """
  digits = min(jnp.finfo(dtype).nmant, 22)
  return jax.lax.reduce_precision(x.astype(jnp.float32), 8, digits)


def _as_row(scale: Array, x: Array) -> Array:
  return jnp.expand_dims(scale, tuple(range(x.ndim - scale.ndim)))


def _dot(codes: Array, kernel: Array, axis: int, dtype: Any) -> Array:
  """float32: over the last axis of the codes and this one of the kernel."""
  # float8 is summed in float32 whatever is given back; a sum of int8 is exact
  given = jnp.int32 if kernel.dtype == jnp.int8 else dtype
  axes = (((codes.ndim - 1,), (axis,)), ((), ()))
  out = jax.lax.dot_general(codes, kernel, axes, preferred_element_type=given)
  return out.astype(jnp.float32)
