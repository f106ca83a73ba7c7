"""Tensors of a weights folder, one at a time, from memory-mapped files."""

import dataclasses
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from povid_jax import errors, files, folders
from povid_jax.errors import UserError
from povid_jax.weights import finite

_DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "U8": np.dtype(np.uint8),
  "BOOL": np.dtype(np.bool_),
}
_TORCH_NAMES = {
  "float64": _DTYPES["F64"],
  "float32": _DTYPES["F32"],
  "float16": _DTYPES["F16"],
  "bfloat16": _DTYPES["BF16"],
  "int64": _DTYPES["I64"],
}
# where trainers keep the state dict inside of what they save
_WRAPPERS = ("state_dict", "model_state_dict", "module", "model")
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


def _mapped(
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
      raise UserError(
        f"{file}: truncated, or not a safetensors file: {size} bytes, "
        f"want a header of {length} after the first 8"
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
    if spec["dtype"] not in _DTYPES:
      raise UserError(
        f"{file}: {key} has dtype {spec['dtype']}, want one of {list(_DTYPES)}"
      )
    dtype, shape = _DTYPES[spec["dtype"]], tuple(spec["shape"])
    begin, stop = spec["data_offsets"]
    if stop - begin != math.prod(shape) * dtype.itemsize:
      raise UserError(
        f"{file}: {key} takes {stop - begin} bytes, "
        f"want {math.prod(shape) * dtype.itemsize} for shape {shape}"
      )
    load = lambda d=dtype, s=shape, o=start + begin: _mapped(file, d, s, o)
    tensors[key] = Tensor(file, key, shape, dtype, load)
  return tensors


def _torch(file: Path) -> Any:
  try:
    import torch
  except ImportError as error:
    raise UserError(
      f"{file} is a PyTorch pickle: reading it needs torch (`pip install "
      "torch`, the CPU build is enough), or a copy of it as safetensors"
    ) from error
  return torch


def _whole(value: Any) -> np.ndarray:
  torch = _torch(Path())
  if value.dtype == torch.bfloat16:
    return value.contiguous().view(torch.int16).numpy().view(_DTYPES["BF16"])
  return value.contiguous().numpy()


def _unwrapped(saved: Any) -> dict[str, Any]:
  """The tensors of what torch.save was given: a state dict, or one inside a
  trainer's checkpoint."""
  if not isinstance(saved, dict):
    raise ValueError(f"it holds a {type(saved).__name__}, want a state dict")
  tensors = {
    key: value
    for key, value in saved.items()
    if isinstance(key, str) and hasattr(value, "untyped_storage")
  }
  for name in _WRAPPERS:
    if not tensors and isinstance(saved.get(name), dict):
      return _unwrapped(saved[name])
  return tensors


def read_bin(file: Path) -> dict[str, Tensor]:
  """The tensors of a file that torch.save wrote; torch must be installed.

  Only tensors are unpickled (`weights_only`), and only their descriptions:
  the data is mapped, unless the file is of the format before torch 1.6.

  Raises:
    UserError: torch is not installed, or cannot read the file.
  """
  with open(file, "rb") as stream:
    start = stream.read(2)
  if start != b"PK" and start[:1] != b"\x80":  # a zip, or (old) a pickle
    raise UserError(
      f"{file}: not a file that torch.save wrote (it begins with {start!r}); "
      "is the download whole?"
    )
  torch = _torch(file)
  from torch._subclasses.fake_tensor import FakeTensorMode

  try:
    with FakeTensorMode(), warnings.catch_warnings():
      warnings.simplefilter("ignore")  # about files that are refused below
      values = torch.load(file, weights_only=True)
    values = _unwrapped(values)
    offsets = {
      k: v.untyped_storage()._checkpoint_offset for k, v in values.items()
    }
    if any(
      o is None or not v.is_contiguous()
      for o, v in zip(offsets.values(), values.values(), strict=True)
    ):
      values = _unwrapped(
        torch.load(file, weights_only=True, map_location="cpu")
      )
      offsets = {}
  except Exception as error:  # torch raises whatever its parsers raise
    raise UserError(
      f"{file}: torch cannot read it, is it truncated? "
      f"({errors.first_line(error)})"
    ) from error
  tensors = {}
  for key, value in values.items():
    shape = tuple(value.shape)
    name = str(value.dtype).removeprefix("torch.")
    if name not in _TORCH_NAMES:
      raise UserError(
        f"{file}: {key} has dtype {name}, want one of {list(_TORCH_NAMES)}"
      )
    dtype = _TORCH_NAMES[name]
    if key in offsets:
      start = offsets[key] + value.storage_offset() * dtype.itemsize
      load = lambda d=dtype, s=shape, o=start: _mapped(file, d, s, o)
    else:
      load = lambda v=value: _whole(v)
    tensors[key] = Tensor(file, key, shape, dtype, load)
  return tensors


def read_file(file: Path) -> dict[str, Tensor]:
  """The tensors of one safetensors or torch file, by its ending."""
  if file.suffix == ".safetensors":
    return read_safetensors(file)
  return read_bin(file)


def read_json(file: Path) -> dict[str, Any]:
  """Raises UserError where the file is missing or is not a JSON object."""
  if not file.is_file():
    lies = folders.suffix(file.parent)
    raise UserError(f"{file.parent}: no {file.name} in it{lies}")
  return files.read_json(file, "want a JSON object")


def _indexed(index: Path) -> dict[str, Tensor]:
  weight_map = read_json(index).get("weight_map")
  if not isinstance(weight_map, dict) or not all(
    isinstance(name, str) for name in weight_map.values()
  ):
    raise UserError(f"{index}: want a `weight_map` from tensors to files")
  if not weight_map:
    raise UserError(
      f"{index}: its `weight_map` names no tensor; download it again"
    )
  tensors: dict[str, Tensor] = {}
  for name in sorted(set(weight_map.values())):
    file = index.parent / name
    if os.path.basename(name) != name or not file.is_file():
      raise UserError(
        f"{file}: file not found, but {index.name} lists it; check that the "
        "download is complete"
      )
    tensors |= read_file(file)
  lost = sorted(set(weight_map) - set(tensors))
  if lost:
    file = index.parent / weight_map[lost[0]]
    raise UserError(f"{file}: no tensor {lost[0]}; {index.name} lists it")
  return tensors


def read_folder(
  folder: Path, stems: tuple[str, ...] = ("model", "pytorch_model")
) -> dict[str, Tensor]:
  """The tensors of a checkpoint folder, safetensors before torch files.

  Raises:
    UserError: there is no folder or no weights in it, or a shard of the index
      is missing, truncated or of another kind.
  """
  if not folder.is_dir():
    raise UserError(f"{folder}: no such folder{folders.suffix(folder)}")
  if said := folders.pointers(folder):
    raise UserError(f"{folder}: {said}")
  for ending in ("safetensors", "bin"):
    for stem in stems:
      index = folder / f"{stem}.{ending}.index.json"
      single = folder / f"{stem}.{ending}"
      if index.is_file():
        return _indexed(index)
      if single.is_file():
        return read_file(single)
      # DeepSpeed's zero_to_fp32.py makes a folder of that name
      if (inside := single / index.name).is_file():
        return _indexed(inside)
  names = " or ".join(f"{s}.safetensors / {s}.bin" for s in stems)
  if lies := folders.explain(folder):
    raise UserError(f"{folder}: no weights that can be read here: {lies}")
  raise UserError(f"{folder}: no weights in it; want {names}, or their index")
