"""Our parameters as safetensors, and as a folder that transformers opens."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from povid_jax import progress
from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig, LoraConfig
from povid_jax.weights import families, finite, keys, tokenizers
from povid_jax.weights.load import cast

# (our path -> array, the adapters' dimensions) of one run
Tuned = tuple[Mapping[str, Any], LoraConfig | None]
_NAMES = {
  np.dtype(np.float32): "F32",
  np.dtype(np.float16): "F16",
  np.dtype(ml_dtypes.bfloat16): "BF16",
}
_TORCH = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SHARD_BYTES = 5 * 10**9  # what transformers writes, and the hub likes


@dataclasses.dataclass(frozen=True)
class Lazy:
  """A tensor to be written: known shape and dtype, made when its turn comes."""

  shape: tuple[int, ...]
  dtype: np.dtype
  make: Callable[[], np.ndarray]

  @property
  def size(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


def _lazy(value: np.ndarray | Lazy) -> Lazy:
  if isinstance(value, Lazy):
    return value
  return Lazy(value.shape, value.dtype, lambda: value)


def write_safetensors(
  file: Path, tensors: Mapping[str, np.ndarray | Lazy]
) -> None:
  """Writes one safetensors file, one tensor in memory at a time."""
  lazy = {key: _lazy(value) for key, value in tensors.items()}
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  offset = 0
  for key, tensor in lazy.items():
    if tensor.dtype not in _NAMES:
      raise UserError(
        f"{key} has dtype {tensor.dtype}, want one of "
        f"{[str(d) for d in _NAMES]}"
      )
    header[key] = {
      "dtype": _NAMES[tensor.dtype],
      "shape": list(tensor.shape),
      "data_offsets": [offset, offset + tensor.size],
    }
    offset += tensor.size
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
  with open(file, "wb") as stream:
    stream.write(len(text).to_bytes(8, "little") + text)
    for tensor in lazy.values():
      value = np.ascontiguousarray(tensor.make())
      stream.write(value.view(np.uint8).reshape(-1).data)


def _shards(tensors: Mapping[str, Lazy], most: int) -> list[dict[str, Lazy]]:
  shards: list[dict[str, Lazy]] = [{}]
  size = 0
  for key, tensor in tensors.items():
    if size + tensor.size > most and shards[-1]:
      shards.append({})
      size = 0
    shards[-1][key] = tensor
    size += tensor.size
  return shards


def write_shards(
  folder: Path, tensors: Mapping[str, Lazy], most: int = _SHARD_BYTES
) -> None:
  """Writes model-0000i-of-0000n.safetensors and their index."""
  shards = _shards(tensors, most)
  weight_map = {}
  for i, shard in enumerate(progress.bar(shards, desc="writing", unit="shard")):
    name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
    write_safetensors(folder / name, shard)
    weight_map |= dict.fromkeys(shard, name)
  total = sum(tensor.size for tensor in tensors.values())
  index = {"metadata": {"total_size": total}, "weight_map": weight_map}
  file = folder / "model.safetensors.index.json"
  file.write_text(json.dumps(index, indent=2), encoding="utf-8")


def merged_kernel(
  kernel: np.ndarray,
  a: np.ndarray,
  b: np.ndarray,
  scale: float,
  dtype: np.dtype,
  name: str,
) -> np.ndarray:
  """One layer's W + scale * A B, added in float32, cast once.

  Args:
    dtype: of the result; bfloat16 before the sum would round twice.
    name: the kernel, for the error.

  Raises:
    UserError: the sum is infinite, or the dtype cannot hold it.
  """
  delta = np.asarray(a, np.float32) @ np.asarray(b, np.float32)
  delta *= np.float32(scale)
  delta += np.asarray(kernel, np.float32)
  name = f"{name} with its adapter merged"
  finite.check(delta, name)
  return cast(delta, dtype, name)


def _grown(table: np.ndarray, rows: int) -> np.ndarray:
  """A [V, D] table with rows added: the mean row, as no token earned more."""
  extra = rows - len(table)
  if extra <= 0:
    return table
  mean = np.asarray(table, np.float32).mean(axis=0, keepdims=True)
  return np.concatenate([table, np.repeat(mean, extra, 0).astype(table.dtype)])


def _by_token(entry: keys.Entry) -> bool:
  """Whether the torch tensor has one row for each token of the vocabulary."""
  return entry.part == "head" or entry.name == "embed_tokens.weight"


def torch_dtype(dtype: np.dtype) -> str:
  """A dtype as config.json names it."""
  return _TORCH[_NAMES[dtype]]


def tensor(
  entry: keys.Entry,
  layer: int | None,
  params: Mapping[str, Any],
  tuned: Sequence[Tuned],
) -> np.ndarray:
  """One torch tensor of a model: what runs trained in it, adapters folded in.

  Raises:
    UserError: a weight is NaN or infinite.
  """
  one = lambda x: np.asarray(x if layer is None else x[layer])
  value = one(params[entry.path])
  finite.check(value, entry.path)
  stored = value.dtype
  stem = entry.path.removesuffix("/kernel")
  for trained, lora in tuned:
    if entry.path in trained:
      value = one(trained[entry.path])
      finite.check(value, entry.path)
      value = cast(value, stored, entry.path)
    if lora is not None and f"{stem}/lora_a" in trained:
      a, b = trained[f"{stem}/lora_a"], trained[f"{stem}/lora_b"]
      value = merged_kernel(
        value, one(a), one(b), lora.scale, value.dtype, entry.path
      )
  return cast(value.transpose(np.argsort(entry.axes)), stored, entry.path)


def tensors(
  config: LlavaConfig,
  params: Mapping[str, Any],
  tuned: Sequence[Tuned],
  vocab_size: int,
  named: Callable[[keys.Entry, str], str],
) -> Iterator[tuple[str, Lazy]]:
  """(name on disk, tensor) of every piece of a model.

  Args:
    vocab_size: rows of embedding and head, at least those of the model.
    named: (parameter, name inside its part) -> name on disk.
  """

  def make(entry: keys.Entry, layer: int | None) -> np.ndarray:
    value = tensor(entry, layer, params, tuned)
    return _grown(value, vocab_size) if _by_token(entry) else value

  for entry in keys.entries(config):
    shape = entry.shape
    if _by_token(entry):
      shape = (vocab_size, *shape[1:])
    for name, layer in entry.names():
      dtype = np.dtype(params[entry.path].dtype)
      produce = lambda e=entry, i=layer: make(e, i)
      yield named(entry, name), Lazy(shape, dtype, produce)


def write_llava_hf(
  folder: Path,
  config: LlavaConfig,
  params: Mapping[str, Any],
  *,
  tuned: Sequence[Tuned] = (),
  ids: tokenizers.Exported,
  tokens: Mapping[str, Any],
  manners: Mapping[str, str],
) -> None:
  """Writes config.json and weights of a LLaVA of transformers.

  Args:
    folder: exists (a temporary folder of the caller).
    params: our path -> array, or anything whose layers can be indexed; one
      layer at a time is asked for.
    tuned: what runs trained on top of them, in their order: whole parameters,
      and adapters that are folded into the kernels while they are written.
    ids: of the exported tokenizer, and the rows of embedding and head.
    tokens: ids by the names bos_token_id, eos_token_id (or a list of them),
      pad_token_id.
    manners: template and image_mode, for the way back.

  Raises:
    UserError: a projector, or a tower and a layout, that transformers does
      not have.
  """
  if config.projector != "mlp2x_gelu":
    raise UserError(
      f"llava-hf has no {config.projector!r} projector, want 'mlp2x_gelu'"
    )
  model = families.of(config)
  named = lambda entry, name: model.name(model.on_disk, entry.part, name)
  made = dict(tensors(config, params, tuned, ids.rows, named))
  given = {k: v for k, v in tokens.items() if v is not None}
  described = model.config_json(config, ids)
  norm = model.name(model.on_disk, "decoder", "norm.weight")
  described["torch_dtype"] = torch_dtype(made[norm].dtype)
  described.get("text_config", described).update(given)
  described["povid_jax"] = dict(manners)
  if "pad_token_id" in given:
    described["pad_token_id"] = given["pad_token_id"]
  file = folder / "config.json"
  file.write_text(json.dumps(described, indent=2), encoding="utf-8")
  file = folder / "generation_config.json"
  file.write_text(json.dumps(given, indent=2), encoding="utf-8")
  write_shards(folder, made)
