"""Tensors of a safetensors file, one at a time, from a memory-mapped file."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from povid_jax import files
from povid_jax.errors import UserError
from povid_jax.weights import finite

DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "U8": np.dtype(np.uint8),
  "BOOL": np.dtype(np.bool_),
}
# Some 100 MB of JSON would be a file that is not safetensors at all.
_MAX_HEADER = 100_000_000


@dataclasses.dataclass(frozen=True)
class Tensor:
  """The place of a tensor in a file; only `read` reads its data."""

  file: Path
  key: str
  shape: tuple[int, ...]
  dtype: np.dtype
  load: Callable[[], np.ndarray]

  @property
  def name(self) -> str:
    """The file and the key, for errors."""
    return f"{self.file}: {self.key}"

  def read(self) -> np.ndarray:
    """The tensor; unmapped again as soon as the array is dropped.

    Raises:
      UserError: a value in it is NaN or infinite.
    """
    value = self.load()
    finite.check(value, self.name)
    return value


def mapped(
  file: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int
) -> np.ndarray:
  # One map per tensor: dropping it gives its pages back, so that the resident
  # memory of a conversion does not grow to the size of the checkpoint.
  if math.prod(shape) == 0:
    return np.zeros(shape, dtype)
  return np.memmap(file, dtype, mode="r", offset=offset, shape=shape)


def _header(file: Path) -> tuple[dict[str, Any], int]:
  """The header of a safetensors file, and the offset of its data."""
  size = file.stat().st_size
  with open(file, "rb") as stream:
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(_MAX_HEADER, size - 8):
      start = length.to_bytes(8, "little") + stream.read(24)
      raise UserError(
        f"{file}: truncated, or not a safetensors file: {size} bytes that "
        f"begin with {start!r}, want a header of {length} bytes after the "
        "first 8"
      )
    try:
      header = files.parse_json(stream.read(length))
    except ValueError as error:
      raise UserError(
        f"{file}: not a safetensors file: its header is not JSON"
      ) from error
  if not isinstance(header, dict):
    raise UserError(
      f"{file}: not a safetensors file: its header is not an object"
    )
  return header, 8 + length


def _check_offsets(file: Path, header: dict[str, Any], start: int) -> None:
  """The tensors must lie end to end and fill the file, as the official parser
  demands: a file of other offsets hides data, or gives bytes out twice.

  Args:
    start: offset of the data.
  """
  size, end = file.stat().st_size, 0
  spans = sorted((spec["data_offsets"], key) for key, spec in header.items())
  last = start + max((stop for (_, stop), _ in spans), default=0)
  if size < last:
    raise UserError(
      f"{file}: truncated: {size} bytes, want {last}; copy or download the "
      "file again"
    )
  for (begin, stop), key in spans:
    if begin != end or stop < begin:
      raise UserError(
        f"{file}: broken header: {key} lies at bytes {begin} to {stop} of the "
        f"data, want {end} to ...: tensors overlap or leave a gap"
      )
    end = stop
  if size > last:
    raise UserError(
      f"{file}: {size - last} unexpected bytes after the last tensor; copy or "
      "download the file again"
    )


def _is_spec(spec: Any) -> bool:
  """Whether this describes a tensor, in the way of safetensors."""
  if not isinstance(spec, dict) or not isinstance(spec.get("dtype"), str):
    return False
  shape, offsets = spec.get("shape"), spec.get("data_offsets")
  if not isinstance(shape, list) or not isinstance(offsets, list):
    return False
  sizes = [*shape, *offsets]
  return len(offsets) == 2 and all(type(n) is int and n >= 0 for n in sizes)


def read_safetensors(file: Path) -> dict[str, Tensor]:
  """The tensors of one file.

  Raises:
    UserError: truncated file, broken header, a dtype that we do not read.
  """
  header, start = _header(file)
  header.pop("__metadata__", None)
  for key, spec in header.items():
    if not _is_spec(spec):
      raise UserError(
        f"{file}: broken header: {key} has {spec!r:.80}, want dtype, shape and "
        "data_offsets"
      )
  _check_offsets(file, header, start)
  tensors = {}
  for key, spec in header.items():
    if spec["dtype"] not in DTYPES:
      raise UserError(
        f"{file}: {key} has dtype {spec['dtype']}, want one of {list(DTYPES)}"
      )
    dtype, shape = DTYPES[spec["dtype"]], tuple(spec["shape"])
    begin, stop = spec["data_offsets"]
    if stop - begin != math.prod(shape) * dtype.itemsize:
      raise UserError(
        f"{file}: {key} takes {stop - begin} bytes, "
        f"want {math.prod(shape) * dtype.itemsize} for shape {shape}"
      )
    load = lambda d=dtype, s=shape, o=start + begin: mapped(file, d, s, o)
    tensors[key] = Tensor(file, key, shape, dtype, load)
  return tensors
