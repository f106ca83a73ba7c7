"""Frozen kernels in 8 or 4 bits.

For memory (`config.base`): one scale for every 64 rows of a column. Codes and
scales are qwix's: int8 holds round(w / scale), nf4 the number of the nearest of
16 quantiles of a normal distribution (Dettmers et al. 2023, QLoRA, arXiv
2305.14314, appendix E), here two rows in a byte. The linear layers of the
decoder's and the tower's blocks are stored so; the arithmetic after
`dequantise` is that of any other kernel.

For speed (`config.matmul`): one scale for each column, as `products` multiplies
them. The linear layers of the decoder's blocks are stored so: the tower has a
hundredth of a step's arithmetic.
"""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from povid_jax.errors import UserError
from povid_jax.models import products

Array = jax.Array
_ROWS = 64
_MOST_SUMMED = 2**31 // 127**2  # products of int8 that int32 holds
_KERNEL = re.compile(r"^(decoder|vision)/layers/.*/kernel$")
# kind of storage -> format of the products
MULTIPLIED = {f"matmul={name}": name for name in products.KERNELS}


def kind_of(config: Any) -> str:
  """How frozen kernels are stored: bf16 (as any other array) | int8 | nf4, or
  one of MULTIPLIED.

  Args:
    config: of a run, or its config.json; older ones lack both fields.

  Raises:
    UserError: both are set.
  """
  base, matmul = (config.get(name, "bf16") for name in ("base", "matmul"))
  if matmul == "bf16":
    return base
  if base != "bf16":
    raise UserError(
      f"config.matmul={matmul} stores the decoder's kernels in 8 bits of its "
      f"own, so config.base={base} has no place: set --config.base=bf16, or "
      "--config.matmul=bf16 for the least memory"
    )
  return f"matmul={matmul}"


def takes(path: str, kind: str) -> bool:
  """Whether storage of this kind has this kernel quantised."""
  if kind == "bf16" or not _KERNEL.search(path):
    return False
  return kind not in MULTIPLIED or path.startswith("decoder/")


def is_stored(path: str, leaf: Any) -> bool:
  """Whether a leaf is part of a quantised kernel, and so keeps its dtype."""
  return path.endswith("/kernel_scale") or leaf.dtype.itemsize == 1


def numbers(path: str, leaf: Any) -> int:
  """How many parameters of the model a leaf holds."""
  if path.endswith("/kernel_scale"):
    return 0
  return math.prod(leaf.shape) * (2 if leaf.dtype == jnp.uint8 else 1)


def quantise(kernel: Array, kind: str) -> tuple[Array, Array]:
  """float[..., D, F] to what is stored.

  Returns:
    int8[..., D, F] or, of nf4, uint8[..., D / 2, F], and the scales
    bfloat16[..., D / 64, F] (D / gcd(D, 64) where 64 does not divide D). Of
    MULTIPLIED int8 or float8[..., D, F] and float32[..., 1, F].

  Raises:
    UserError: nf4 of an odd number of rows; a sum that int32 may not hold.
  """
  *lead, rows, columns = kernel.shape
  if form := MULTIPLIED.get(kind):
    if form == "int8" and max(rows, columns) > _MOST_SUMMED:
      raise UserError(
        f"config.matmul=int8: a kernel is {rows} x {columns}, and sums of more "
        f"than {_MOST_SUMMED} numbers do not fit: set --config.matmul=bf16"
      )
    return products.quantise(kernel, products.KERNELS[form], -2)
  import qwix  # a third of a second that other runs need not wait

  if kind == "nf4" and rows % 2:
    raise UserError(f"config.base=nf4: a kernel has {rows} rows, an odd number")
  found = qwix.quantize(
    kernel.astype(jnp.float32),
    jnp.int8 if kind == "int8" else kind,
    channelwise_axes=(*range(len(lead)), kernel.ndim - 1),
    tiled_axes={kernel.ndim - 2: math.gcd(rows, _ROWS)},
    scale_dtype=jnp.bfloat16,
  )
  if kind == "int8":
    return found.qvalue, found.scale
  # uint4 takes a byte on some devices
  code = found.qvalue.astype(jnp.uint8).reshape(*lead, rows // 2, 2, columns)
  return code[..., 0, :] | (code[..., 1, :] << 4), found.scale


def _quantiles() -> Array:
  """float32[16]: what the codes of nf4 stand for."""
  import qwix

  codes, one = jnp.arange(16, dtype=jnp.uint4), jnp.ones(1, jnp.float32)
  return qwix.dequantize(qwix.QArray(codes, one, qtype="nf4"))


def dequantise(stored: Array, scale: Array, dtype: Any) -> Array:
  """The kernel float[..., D, F] of what `quantise` gave.

  As `qwix.dequantize`, which would flatten the codes and so gather a kernel
  that is cut over the mesh.
  """
  if stored.dtype == jnp.uint8:
    both = jnp.stack([stored & 15, stored >> 4], axis=-2)
    *lead, half, _, columns = both.shape
    code = both.reshape(*lead, 2 * half, columns)
    unit = _quantiles()[code]
  else:
    unit = stored.astype(jnp.float32)
  *lead, rows, columns = unit.shape
  tiles = unit.reshape(*lead, scale.shape[-2], -1, columns)
  out = tiles * scale.astype(jnp.float32)[..., None, :]
  return out.reshape(unit.shape).astype(dtype)


@functools.partial(jax.jit, static_argnums=1)
def _by_layer(kernel: Array, kind: str) -> tuple[Array, Array]:
  """`quantise` layer by layer: the float32 of all layers may not fit."""
  return jax.lax.map(lambda layer: quantise(layer, kind), kernel)


def store(path: str, array: Array, kind: str) -> dict[str, Array]:
  """What storage of this kind holds in place of an array."""
  if not takes(path, kind) or is_stored(path, array):
    return {path: array}
  kernel, scale = _by_layer(array, kind)
  kernel.block_until_ready()  # the caller lets go of the array now
  return {path: kernel, f"{path}_scale": scale}


@functools.partial(jax.jit, static_argnums=(1, 2))
def _rounded(kernel: Array, kind: str, dtype: Any) -> Array:
  def one(layer: Array) -> Array:
    return dequantise(*quantise(layer.astype(dtype), kind), kernel.dtype)

  return jax.lax.map(one, kernel)


def rounded(params: dict[str, Any], kind: str, dtype: str) -> dict[str, Any]:
  """The same numbers as quantised kernels have, in kernels stored as usual.

  Args:
    dtype: in which they were quantised, the run's.
  """
  out = dict(params)
  for path in (path for path in params if takes(path, kind)):
    found = _rounded(params[path], kind, jnp.dtype(dtype))
    out[path] = jax.device_put(found, params[path].sharding)
  return out
