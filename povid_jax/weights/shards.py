"""Tensors of a weights folder: safetensors or torch files, and their index."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from povid_jax import errors, files, folders
from povid_jax.errors import UserError
from povid_jax.weights.safetensors_file import (
  DTYPES,
  Tensor,
  mapped,
  read_safetensors,
)

_TORCH_NAMES = {
  "float64": DTYPES["F64"],
  "float32": DTYPES["F32"],
  "float16": DTYPES["F16"],
  "bfloat16": DTYPES["BF16"],
  "int64": DTYPES["I64"],
}
# where trainers keep the state dict inside of what they save
_WRAPPERS = ("state_dict", "model_state_dict", "module", "model")


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
    return value.contiguous().view(torch.int16).numpy().view(DTYPES["BF16"])
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
    if "weights_only" in str(error):
      raise UserError(
        f"{file}: it holds objects of Python besides tensors, which may run "
        "code when they are read; want a state dict alone: "
        "torch.save(model.state_dict(), FILE), or save_pretrained"
      ) from error
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
      load = lambda d=dtype, s=shape, o=start: mapped(file, d, s, o)
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
  # not asked by is_file: a name from a file may be too long to ask for
  there = {path.name for path in index.parent.iterdir() if path.is_file()}
  for name in sorted(set(weight_map.values())):
    if name not in there:
      raise UserError(
        f"{index.parent}/{name:.200}: file not found, but {index.name} lists "
        "it; check that the download is complete"
      )
    tensors |= read_file(index.parent / name)
  lost = sorted(set(weight_map) - set(tensors))
  if lost:
    file = index.parent / weight_map[lost[0]]
    raise UserError(f"{file}: no tensor {lost[0]}; {index.name} lists it")
  return tensors


def _shards(folder: Path, stem: str, ending: str) -> list[Path]:
  """The shards of a folder whose index is not there, by their numbers.

  Raises:
    UserError: one of them is missing.
  """
  name = re.compile(rf"{stem}-(\d+)-of-(\d+)\.{ending}")
  found = {p.name: m for p in folder.iterdir() if (m := name.fullmatch(p.name))}
  if not found:
    return []
  count = max(int(m[2]) for m in found.values())
  numbers = sorted(int(m[1]) for m in found.values())
  if numbers != list(range(1, count + 1)):
    lost = sorted(set(range(1, count + 1)) - set(numbers)) or numbers
    raise UserError(
      f"{folder}: shards {stem}-*-of-*.{ending} without their index, and not "
      f"each once: look at number {lost[0]} of {count}; check that the "
      "download is complete"
    )
  return [folder / name for name in sorted(found)]


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
      if shards := _shards(folder, stem, ending):
        return dict(item for file in shards for item in read_file(file).items())
      # DeepSpeed's zero_to_fp32.py makes a folder of that name
      if (inside := single / index.name).is_file():
        return _indexed(inside)
  names = " or ".join(f"{s}.safetensors / {s}.bin" for s in stems)
  if lies := folders.explain(folder):
    raise UserError(f"{folder}: want {names}, or their index: {lies}")
  lies = sorted(p.name for p in folder.iterdir())
  more = ", ..." if len(lies) > 5 else ""
  raise UserError(
    f"{folder}: no weights in it; want {names}, or their index. "
    + (f"It holds {', '.join(lies[:5])}{more}" if lies else "It is empty")
  )
