"""Linear (with its low-rank adapter), norms and activations."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from povid_jax.models import products, quantised

Array = jax.Array


class LoRA(nnx.Param):
  """An adapter weight; a class of its own so that it can be selected."""


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
  "silu": jax.nn.silu,
}


# A program of so few layers compiles nearly as fast as a loop over them. The
# loop keeps what the backward pass needs in stacked arrays, which it fills with
# zeros, writes and cuts again: on CPUs a quarter of the step of a small model.
_UNROLLED = 8


def few(layers: int) -> bool:
  """Whether so many layers run without a loop."""
  return layers <= _UNROLLED


def over_layers(
  body: Callable[[Any, Any], tuple[Any, Any]],
  carry: Any,
  stacked: Any,
  unroll: bool = True,
) -> tuple[Any, Any]:
  """`jax.lax.scan` over stacked layers, without a loop for a few of them.

  Args:
    body: as of `jax.lax.scan`, for one layer.
    carry: what the first layer gets.
    stacked: a tree of arrays with a leading layer axis.
    unroll: False where `body` is a checkpoint that relies on the loop
      (`prevent_cse=False`).
  """
  layers = jax.tree.leaves(stacked)[0].shape[0]
  rounds = max(1, layers) if unroll and few(layers) else 1
  return jax.lax.scan(body, carry, stacked, unroll=rounds)


def over_last(values: Array, x: Array) -> Array:
  """A vector or table over the last axes of `x`, in the rank and dtype of x."""
  axes = tuple(range(x.ndim - values.ndim))
  return jnp.expand_dims(values.astype(x.dtype), axes)


def _rows(x: Array) -> Array:
  """float[..., D] as a matrix of rows."""
  return x.reshape(-1, x.shape[-1])


@jax.custom_vjp
def float32_product(x: Array, kernel: Array) -> Array:
  """x W of float[..., D] and float[D, V], summed and given in float32.

  Its cotangent is rounded to the dtype of `x` before it goes back, as that of
  any other layer is: the plain transpose would multiply by a float32 copy of
  the kernel, at half the speed of bfloat16 or less.
  """
  return jnp.matmul(
    x, kernel.astype(x.dtype), preferred_element_type=jnp.float32
  )


def _product_fwd(x: Array, kernel: Array) -> tuple[Array, tuple]:
  return float32_product(x, kernel), (x, kernel)


def _product_bwd(kept: tuple[Array, Array], ct: Array) -> tuple[Array, Array]:
  x, kernel = kept
  ct = ct.astype(x.dtype)
  d_kernel = jnp.matmul(
    _rows(x).T, _rows(ct), preferred_element_type=jnp.float32
  )
  return ct @ kernel.astype(x.dtype).T, d_kernel.astype(kernel.dtype)


float32_product.defvjp(_product_fwd, _product_bwd)


@jax.custom_vjp
def low_rank_product(x: Array, factor: Array) -> Array:
  """x F of float[..., D] and a factor float[D, E] of an adapter.

  One of D and E is the rank. The gradient to F is a product over all tokens,
  for which XLA on CPUs transposes an operand, a copy: here the narrow one. Of
  its own accord it takes the wide one.
  """
  return x @ factor


def _low_rank_fwd(x: Array, factor: Array) -> tuple[Array, tuple]:
  return x @ factor, (x, factor)


def _low_rank_bwd(kept: tuple[Array, Array], ct: Array) -> tuple[Array, Array]:
  x, factor = kept
  if factor.shape[0] <= factor.shape[1]:
    d_factor = _rows(x).T @ _rows(ct)
  else:
    # the barrier keeps the compiler from swapping the operands back
    d_factor = jax.lax.optimization_barrier(_rows(ct).T @ _rows(x)).T
  return ct @ factor.T, d_factor


low_rank_product.defvjp(_low_rank_fwd, _low_rank_bwd)


def few_rows_product(x: Array, kernel_FD: Array) -> Array:
  """x W of a few rows float[..., D], W stored transposed; summed in float32.

  XLA's product on CPUs packs its second operand anew each time. For a few rows
  that takes longer than the product, so the kernel comes first. The barrier
  keeps the compiler from swapping them back.
  """
  out = jnp.einsum(
    *("fd,rd->fr", kernel_FD.astype(x.dtype), _rows(x)),
    preferred_element_type=jnp.float32,
  )
  out = jax.lax.optimization_barrier(out).T
  return out.reshape(*x.shape[:-1], -1)


class Linear(nnx.Module):
  """y = x W + b, plus (alpha / r) x A B while the adapter is on.

  Weights are stored in whatever dtype they were loaded in and used in the
  dtype of `x`. `stack` gives a leading axis for layers that are scanned.
  """

  def __init__(
    self,
    d_in: int,
    d_out: int,
    *,
    rngs: nnx.Rngs,
    bias: bool = False,
    stack: tuple[int, ...] = (),
  ):
    shape = (*stack, d_in, d_out)
    init = jax.random.normal(rngs.params(), shape) / math.sqrt(d_in)
    self.kernel = nnx.Param(init)
    self.bias = nnx.Param(jnp.zeros((*stack, d_out))) if bias else None
    self.kernel_scale = nnx.data(None)
    self.multiplied = False  # the kernel as it is stored, see `products`
    self.transposed = False  # see `transpose`
    self.lora_a = nnx.data(None)
    self.lora_b = nnx.data(None)
    self.lora_scale = 0.0

  def add_lora(self, rank: int, scale: float, rngs: nnx.Rngs) -> None:
    """A ~ U(-1/sqrt(d_in), 1/sqrt(d_in)), B = 0, as PEFT starts it; float32."""
    *stack, d_in, d_out = self.kernel.shape
    bound = 1.0 / math.sqrt(d_in)
    a = jax.random.uniform(
      rngs.params(), (*stack, d_in, rank), minval=-bound, maxval=bound
    )
    self.lora_a = LoRA(a)
    self.lora_b = LoRA(jnp.zeros((*stack, rank, d_out)))
    self.lora_scale = scale

  def quantise(self, kind: str) -> None:
    """Stores the kernel in 8 or 4 bits; `kind` as of `quantised.kind_of`."""
    kernel, scale = quantised.quantise(self.kernel[...], kind)
    self.kernel = nnx.Param(kernel)
    self.kernel_scale = nnx.Param(scale)
    self.multiplied = kind in quantised.MULTIPLIED

  def transpose(self) -> None:
    """Stores the kernel of one layer as `few_rows_product` takes it."""
    assert self.kernel_scale is None, "a quantised kernel has another form"
    self.kernel = nnx.Param(self.kernel[...].T)
    self.transposed = True

  def _product(self, x: Array) -> Array:
    """x W, whatever the kernel is stored in."""
    kernel = self.kernel[...]
    if self.transposed:
      return few_rows_product(x, kernel).astype(x.dtype)
    if self.kernel_scale is None:
      return x @ kernel.astype(x.dtype)
    scale = self.kernel_scale[...]
    if self.multiplied:
      return products.product(x, kernel, scale)
    return x @ quantised.dequantise(kernel, scale, x.dtype)

  def __call__(self, x: Array, adapter: bool = True) -> Array:
    y = self._product(x)
    if self.bias is not None:
      y = y + over_last(self.bias[...], y)
    if adapter and self.lora_a is not None:
      assert self.lora_b is not None  # add_lora makes both
      low = low_rank_product(x, self.lora_a[...].astype(x.dtype))
      low = checkpoint_name(low, "low")
      # the few columns of x A are scaled, not the many of the output: then
      # the compiler can let the last product add onto the first one's result
      low = jnp.asarray(self.lora_scale, x.dtype) * low
      y = y + low_rank_product(low, self.lora_b[...].astype(x.dtype))
    return checkpoint_name(y, "linear")


class LayerNorm(nnx.Module):
  """Layer normalisation in float32."""

  def __init__(self, dim: int, eps: float, stack: tuple[int, ...] = ()):
    self.scale = nnx.Param(jnp.ones((*stack, dim)))
    self.bias = nnx.Param(jnp.zeros((*stack, dim)))
    self.eps = eps

  def __call__(self, x: Array) -> Array:
    h = x.astype(jnp.float32)
    h = h - h.mean(axis=-1, keepdims=True)
    h = h * jax.lax.rsqrt((h * h).mean(axis=-1, keepdims=True) + self.eps)
    h = h * over_last(self.scale[...], h) + over_last(self.bias[...], h)
    return h.astype(x.dtype)


class RMSNorm(nnx.Module):
  """Root-mean-square normalisation in float32."""

  def __init__(self, dim: int, eps: float, stack: tuple[int, ...] = ()):
    self.scale = nnx.Param(jnp.ones((*stack, dim)))
    self.eps = eps

  def __call__(self, x: Array) -> Array:
    h = x.astype(jnp.float32)
    h = h * jax.lax.rsqrt((h * h).mean(axis=-1, keepdims=True) + self.eps)
    # the product is taken in the model's dtype, as Llama does
    h = h.astype(x.dtype)
    return h * over_last(self.scale[...], h)
