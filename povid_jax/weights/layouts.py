"""The picture layout of a checkpoint, and the template of its decoder."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.models.config import (
  DecoderConfig,
  LayoutConfig,
  VisionConfig,
)
from povid_jax.weights.fields import Fields, section, want
from povid_jax.weights.shards import read_json

NEXT_PINPOINTS = (
  (336, 672),
  (672, 336),
  (672, 672),
  (1008, 336),
  (336, 1008),
)
_STEPS = range(384, 2305, 384)
ONEVISION_PINPOINTS = tuple((h, w) for h in _STEPS for w in _STEPS)
_ASPECT = re.compile(r"anyres(?:_max_([1-9]\d*))?")


def _pinpoints(value: Any, tile: int, where: Path) -> tuple[tuple, ...]:
  """Pinpoints as a list of pairs, or as the original writes them in words.

  "(1x1),...,(6x6)" is every pair from the first to the last, in tiles.
  """
  if isinstance(value, str):
    ends = re.findall(r"\((\d+)x(\d+)\)", value)
    if ends:
      (low, left), (high, right) = (map(int, ends[i]) for i in (0, -1))
      return tuple(
        (i * tile, j * tile)
        for i in range(low, high + 1)
        for j in range(left, right + 1)
      )
    try:
      value = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      value = None
  if not isinstance(value, list | tuple) or not all(
    isinstance(pair, list | tuple) for pair in value
  ):
    raise UserError(
      f"{where}: image_grid_pinpoints: want pairs of pixels, "
      "[[336, 672], ...] or (1x1),...,(6x6)"
    )
  return tuple(map(tuple, value))


def _tiles(aspect: Any, where: Path, field: str) -> int:
  """N of anyres_max_N, 0 of anyres."""
  found = _ASPECT.fullmatch(str(aspect))
  if found is None:
    raise UserError(
      f"{where}: {field} is {aspect!r:.80}, want 'anyres' or 'anyres_max_9'"
    )
  return int(found[1] or 0)


def of_hf(c: Fields, tile: int, where: Path) -> LayoutConfig:
  """The layout of a folder that transformers reads."""
  kind = c["model_type"]
  if kind == "llava":
    # LLaVA-1.5 saw padded pictures, so a folder whose processor merely resizes
    # also gets "pad"
    return _square(c, "pad", where)
  given = c.get("image_grid_pinpoints")
  if kind == "llava_next":
    pinpoints = _pinpoints(given or NEXT_PINPOINTS, tile, where)
    return LayoutConfig("anyres", pinpoints=pinpoints)
  aspect = c.get("vision_aspect_ratio") or "anyres_max_9"
  most = _tiles(aspect, where, "vision_aspect_ratio")
  if not most:
    raise UserError(
      f"{where}: vision_aspect_ratio is 'anyres', want 'anyres_max_9'"
    )
  pinpoints = _pinpoints(given or ONEVISION_PINPOINTS, tile, where)
  return LayoutConfig(
    "anyres", pinpoints=pinpoints, max_tiles=most, several="square"
  )


def of_original(c: Fields, tile: int, where: Path) -> LayoutConfig:
  """The layout of a folder in the original layout of files."""
  aspect = c.get("image_aspect_ratio") or "square"
  merge = c.get("mm_patch_merge_type") or "flat"
  if not str(aspect).startswith("anyres"):
    want(merge, ("flat",), "mm_patch_merge_type", where)
    return _square(c, "square", where)
  want(merge, ("spatial_unpad",), "mm_patch_merge_type", where)
  most = _tiles(aspect, where, "image_aspect_ratio")
  return LayoutConfig(
    "anyres",
    pinpoints=_pinpoints(c.get("image_grid_pinpoints"), tile, where),
    max_tiles=most,
    several="square" if most else "tiles",
  )


def _square(c: Fields, default: str, where: Path) -> LayoutConfig:
  said = section(c, "povid_jax", where)
  aspect = c.get("image_aspect_ratio") or default
  want(aspect, ("pad", "square", "resize"), "image_aspect_ratio", where)
  mode = said.get("image_mode") or ("pad" if aspect == "pad" else "resize")
  return LayoutConfig(mode=mode)


def template_of(
  c: Fields, layout: LayoutConfig, decoder: DecoderConfig, kind: str
) -> str:
  """Name of the conversation template that a checkpoint was tuned on.

  A folder that povid_jax wrote contains the name. Else LLaVA's authors'
  pairing: by the decoder (`kind`) and, as families share one, by its
  vocabulary.
  """
  said = c.get("povid_jax")
  if isinstance(said, dict) and said.get("template"):
    return said["template"]
  if kind == "mistral":
    return "mistral_instruct"
  if layout.kind == "square":
    return "vicuna_v1"
  if kind == "qwen2":
    return "qwen_1_5"
  rows = decoder.vocab_size
  if rows >= 128_000:
    return "llava_llama_3"
  # Yi's 64,000 and the three that transformers' conversion adds
  return "chatml_direct" if 64_000 <= rows < 65_000 else "vicuna_v1"


def check_processor(
  folder: Path, vision: VisionConfig, layout: LayoutConfig
) -> VisionConfig:
  """The tower with the mean and deviation that the folder's processor has.

  Raises:
    UserError: the processor makes other pixels than povid_jax.
  """
  where = folder / "preprocessor_config.json"
  if where.is_file():
    c = read_json(where)
  elif (where := folder / "processor_config.json").is_file():
    c = section(read_json(where), "image_processor", where)
  else:
    return vision
  mean, std = (
    _channels(c, f"image_{name}", getattr(vision, name), where)
    for name in ("mean", "std")
  )
  want(c.get("resample", 3), (3,), "resample", where)
  given = c.get("image_grid_pinpoints")
  if layout.kind == "anyres" and given is not None:
    pinpoints = _pinpoints(given, vision.image_size, where)
    if pinpoints != layout.pinpoints:
      raise UserError(
        f"{where}: image_grid_pinpoints differ from those of config.json"
      )
  size = c.get("size")
  pixels = set(size.values()) if isinstance(size, dict) else {size}
  if layout.kind == "anyres" and pixels - {vision.image_size, None}:
    raise UserError(
      f"{where}: size is {size!r:.80}, want {vision.image_size} pixels as "
      "config.json has it"
    )
  return dataclasses.replace(vision, mean=mean, std=std)


def _channels(
  c: Fields, field: str, default: tuple[float, ...], where: Path
) -> tuple[float, ...]:
  value = c.get(field)
  if value is None:
    return default
  numbers = isinstance(value, list) and all(
    type(x) in (int, float) and 0 < x < 1 for x in value
  )
  if not numbers or len(value) != 3:
    raise UserError(
      f"{where}: {field} is {value!r:.80}, want three numbers between 0 and 1"
    )
  return tuple(map(float, value))
