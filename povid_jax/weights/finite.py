"""Refuses NaN and infinity in weights."""

import ml_dtypes
import numpy as np

from povid_jax.errors import UserError

_BLOCK = 1 << 20  # values looked at together; they stay in the cache
# bits of +infinity: all values with a NaN or an infinity are at or above it,
# read as a signed integer (or, with the sign bit, as an unsigned one)
_INFINITY: dict[np.dtype, tuple[type, type, int]] = {
  np.dtype(ml_dtypes.bfloat16): (np.int16, np.uint16, 0x7F80),
  np.dtype(np.float16): (np.int16, np.uint16, 0x7C00),
  np.dtype(np.float32): (np.int32, np.uint32, 0x7F800000),
  np.dtype(np.float64): (np.int64, np.uint64, 0x7FF0000000000000),
}


def _finite(block: np.ndarray) -> bool:
  """Two reductions over the bits: several times faster than np.isfinite, and
  bfloat16 has no fast isfinite at all."""
  signed, unsigned, bits = _INFINITY[block.dtype]
  sign = 1 << (block.dtype.itemsize * 8 - 1)
  return bool(
    block.view(signed).max() < bits and block.view(unsigned).max() < bits | sign
  )


def check(array: np.ndarray, name: str, why: str = "") -> None:
  """Raises UserError, with place and number, for NaN or infinite values.

  Args:
    array: any shape; dtypes without infinity pass.
    name: the file and the tensor, for the error.
    why: what to do about it.
  """
  if array.dtype not in _INFINITY or not array.size:
    return
  flat = np.ascontiguousarray(array).reshape(-1)
  for start in range(0, len(flat), _BLOCK):
    if not _finite(flat[start : start + _BLOCK]):
      break
  else:
    return
  wide = flat.astype(np.float32 if flat.dtype.itemsize < 4 else flat.dtype)
  bad = np.flatnonzero(~np.isfinite(wide))
  spot = [int(i) for i in np.unravel_index(bad[0], array.shape)]
  raise UserError(
    f"{name} has {len(bad)} value(s) that are NaN or infinite, the first, "
    f"{wide[bad[0]]}, at {spot}{why or '; want finite weights'}"
  )


def check_cast(before: np.dtype, after: np.ndarray, name: str) -> None:
  """After a cast of finite values: none may have become infinite.

  Raises:
    UserError: names the tensor, and dtypes that hold such values.
  """
  if _reach(after.dtype) >= _reach(before):
    return
  why = (
    f", after the cast to {after.dtype}: the value is too large for this "
    "dtype; use --dtype=bfloat16 or float32"
  )
  check(after, name, why)


def _reach(dtype: np.dtype) -> float:
  """The largest finite value."""
  return float(ml_dtypes.finfo(dtype).max)
