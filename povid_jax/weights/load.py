"""PyTorch checkpoints to our parameters, one tensor at a time."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from povid_jax import progress
from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig
from povid_jax.weights import dimensions, finite, keys, kinds, qwen
from povid_jax.weights.safetensors_file import Tensor
from povid_jax.weights.shards import read_file, read_folder, read_json

# (path, shape) -> sharding, as povid_jax.checkpoints.restore.load takes it
Shardings = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]
# model_type -> dimensions of a folder of transformers
_READERS = {qwen.MODEL_TYPE: qwen.describe}
_BLOCK = 512  # columns of a transposed copy; keeps both sides in the cache


@dataclasses.dataclass(frozen=True)
class Source:
  """A checkpoint whose keys and shapes are checked and whose data is not yet
  read.

  Attributes:
    config: its dimensions.
    template: name of the conversation template that fits it.
    layout: "original" or "llava-hf".
    pieces: (our path, layer or None) -> tensor on disk.
  """

  config: LlavaConfig
  template: str
  layout: str
  pieces: dict[tuple[str, int | None], Tensor]

  def dtype_of(self, entry: keys.Entry) -> np.dtype:
    """dtype on disk; that of the first layer where layers are stacked."""
    return self.pieces[entry.path, 0 if entry.layers else None].dtype

  def read_layer(
    self,
    entry: keys.Entry,
    layer: int | None,
    dtype: np.dtype | None,
    index: Any = ...,
  ) -> np.ndarray:
    """One torch tensor in our layout, or the part that `index` names."""
    tensor = self.pieces[entry.path, layer]
    value = tensor.read().transpose(entry.axes)[index]
    return cast(value, dtype or self.dtype_of(entry), tensor.name)

  def read(
    self, entry: keys.Entry, dtype: np.dtype | None, index: Any = None
  ) -> np.ndarray:
    """One parameter in our layout, stacked, or a part of it.

    Args:
      dtype: what floating-point values become; None keeps them.
      index: a tuple of slices into our shape, as a sharding gives them.
    """
    index = index or (slice(None),) * len(entry.our_shape)
    if not entry.layers:
      return self.read_layer(entry, None, dtype, index)
    layers = range(entry.layers)[index[0]]
    inner = [
      len(range(n)[i])
      for n, i in zip(entry.our_shape[1:], index[1:], strict=True)
    ]
    out = np.empty((len(layers), *inner), dtype or self.dtype_of(entry))
    for row, layer in enumerate(layers):
      out[row] = self.read_layer(entry, layer, dtype, index[1:])
    return out

  def params(
    self, dtype: Any = None, shardings: Shardings | None = None
  ) -> dict[str, Any]:
    """Every parameter, cast.

    Args:
      dtype: of the result; None keeps the checkpoint's.
      shardings: where each parameter goes: the parts that live on this host's
        devices are read and placed, and nothing else. None: NumPy arrays.

    Returns:
      our path -> array.
    """
    dtype = None if dtype is None else np.dtype(dtype)
    out: dict[str, Any] = {}
    entries = keys.entries(self.config)
    for entry in progress.bar(entries, desc="reading", unit="param"):
      if shardings is None:
        out[entry.path] = self.read(entry, dtype)
        continue
      out[entry.path] = jax.make_array_from_callback(
        entry.our_shape,
        shardings(entry.path, entry.our_shape),
        lambda index, entry=entry: self.read(entry, dtype, index),
      )
    return dict(sorted(out.items()))


def cast(value: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
  """A contiguous copy in another dtype, fast also for a transposed view.

  Args:
    name: the file and the tensor, for the error.

  Raises:
    UserError: a value that the dtype cannot hold.
  """
  out = np.empty(value.shape, dtype)
  # the error below is clearer than NumPy's warning
  with np.errstate(over="ignore"):
    if len(out.shape) != 2 or value.flags.c_contiguous:
      out[...] = value
    else:
      for i in range(0, out.shape[0], _BLOCK):
        for j in range(0, out.shape[1], _BLOCK):
          block = np.s_[i : i + _BLOCK, j : j + _BLOCK]
          out[block] = value[block]
  finite.check_cast(value.dtype, out, name)
  return out


def _check_tensors(
  entries: list[keys.Entry], pieces: dict[tuple[str, int | None], Tensor]
) -> None:
  for entry in entries:
    for _, layer in entry.names():
      tensor = pieces[entry.path, layer]
      if not jnp.issubdtype(tensor.dtype, jnp.floating):
        # a quantised one, whose scale is elsewhere
        raise UserError(
          f"{tensor.file}: {tensor.key} has dtype {tensor.dtype}, want a "
          "floating-point one"
        )
      if tensor.shape != entry.shape:
        raise UserError(
          f"{tensor.file}: {tensor.key} has shape {tensor.shape}, "
          f"want {entry.shape}"
        )


def _take(
  tensors: dict[str, Tensor],
  wanted: list[keys.Entry],
  where: Path,
  **options: bool,
) -> dict[tuple[str, int | None], Tensor]:
  """The tensors behind our parameters; `options` are those of `keys.match`."""
  if options.get("tied"):
    _check_tied(tensors, where)
  found = keys.match(tensors, wanted, str(where), **options)
  pieces = {target: tensors[key] for target, key in found.items()}
  _check_tensors(wanted, pieces)
  return pieces


def _check_tied(tensors: dict[str, Tensor], folder: Path) -> None:
  """A head beside a tied embedding must be a copy of it.

  transformers 4 would overwrite another one, 5 would keep it.
  """
  parts = {keys.split(key): tensor for key, tensor in tensors.items()}
  head = parts.get(("head", "weight"))
  embedding = parts.get(("decoder", "embed_tokens.weight"))
  if head is None or embedding is None:
    return
  step = 4096  # rows, so that a large vocabulary needs little memory
  one, two = head.read(), embedding.read()
  if one.shape != two.shape or any(
    not np.array_equal(one[i : i + step], two[i : i + step])
    for i in range(0, len(one), step)
  ):
    raise UserError(
      f"{head.file}: {head.key} differs from {embedding.key}, though "
      f"tie_word_embeddings is true in {folder / 'config.json'}; want equal "
      "tables, or tie_word_embeddings=false"
    )


def _has_part(tensors: dict[str, Tensor], part: str) -> bool:
  return any((keys.split(key) or ("",))[0] == part for key in tensors)


def _with_projector(
  folder: Path, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
  """Adds mm_projector.bin where the shards hold no projector."""
  if _has_part(tensors, "projector"):
    return tensors
  for name in ("mm_projector.safetensors", "mm_projector.bin"):
    if (folder / name).is_file():
      return tensors | read_file(folder / name)
  return tensors


def _open_original(
  folder: Path,
  tensors: dict[str, Tensor],
  vision_tower: Path | None,
  image_mode: str | None,
) -> Source:
  config, template = dimensions.from_original(
    folder, tensors, vision_tower, image_mode
  )
  inside = _has_part(tensors, "vision")
  if config.layout.kind != "square" and not inside:
    # LLaVA-1.5 left CLIP as it was; what came after it trained its tower
    raise UserError(
      f"{folder}: it contains no vision tower, but this model was trained "
      "together with its own tower; give the folder that contains the "
      "model.vision_tower.* tensors, not another tower"
    )
  wanted = keys.entries(config)
  pieces = {}
  if not inside and vision_tower is not None:
    tower = keys.vision_entries(config.square_tower)
    wanted = wanted[len(tower) :]
    found = read_folder(vision_tower)
    pieces = _take(found, tower, vision_tower, clip=True)
  tied = config.decoder.tie_embeddings
  pieces |= _take(tensors, wanted, folder, tied=tied)
  return Source(config, template, "original", pieces)


def _open_hf(folder: Path, tensors: dict[str, Tensor], kind: str) -> Source:
  config, template = _READERS.get(kind, dimensions.from_llava_hf)(folder)
  wanted = keys.entries(config)
  tied = config.decoder.tie_embeddings
  pieces = _take(tensors, wanted, folder, tied=tied)
  return Source(config, template, "llava-hf", pieces)


def open_checkpoint(
  folder: str | Path,
  vision_tower: str | Path | None = None,
  image_mode: str | None = None,
) -> Source:
  """Checks every key and shape of a LLaVA checkpoint, without reading its data.

  Args:
    folder: in the original layout, or in one of the llava-hf generations.
    vision_tower: folder of the CLIP model, where an original checkpoint does
      not hold it. Its config.json is believed in either case. None: a folder
      `vision_tower` inside, which `convert to-llava` may have written.
    image_mode: for an original checkpoint: how pictures become squares, in
      place of what its config.json says.

  Raises:
    UserError: no weights, a missing or truncated shard, missing or unexpected
      tensors (listed), a wrong shape, a model that is not implemented.
  """
  folder = Path(folder)
  tensors = _with_projector(folder, kinds.unwrapped(read_folder(folder)))
  if why := kinds.explain(tensors):
    raise UserError(f"{folder}: {why}")
  c = read_json(folder / "config.json")
  kind = str(c.get("model_type"))
  if "text_config" in c or kind in _READERS:
    if vision_tower is not None:
      raise UserError(
        f"{folder}: an llava-hf checkpoint contains its vision tower; do not "
        "give --vision-tower"
      )
    return _open_hf(folder, tensors, kind)
  beside = folder / "vision_tower"
  if vision_tower is None and (beside / "config.json").is_file():
    vision_tower = beside
  tower = None if vision_tower is None else Path(vision_tower)
  return _open_original(folder, tensors, tower, image_mode)
