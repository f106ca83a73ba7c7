"""Qwen2.5-VL: its config.json and its processor, read.

Read in transformers' modeling_qwen2_5_vl.py, configuration_qwen2_5_vl.py and
conversion_mapping.py (key names of 4.49 to 5), and in the config.json of
Qwen/Qwen2.5-VL-3B-Instruct and -7B-Instruct.
"""

import dataclasses
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.models.config import (
  DecoderConfig,
  LayoutConfig,
  LlavaConfig,
  QwenVisionConfig,
)
from povid_jax.weights.dimensions import Described, decoder_from
from povid_jax.weights.fields import Fields, integer, number, section, want
from povid_jax.weights.shards import read_json

MODEL_TYPE = "qwen2_5_vl"
# what transformers assumes where vision_config is silent; checked by a test
VISION_DEFAULTS: dict[str, Any] = dict(
  depth=32,
  hidden_size=3584,
  hidden_act="silu",
  intermediate_size=3420,
  num_heads=16,
  in_channels=3,
  patch_size=14,
  spatial_merge_size=2,
  temporal_patch_size=2,
  window_size=112,
  out_hidden_size=3584,
  fullatt_block_indexes=[7, 15, 23, 31],
)
TEXT_DEFAULTS: dict[str, Any] = dict(
  vocab_size=152064,
  hidden_size=8192,
  intermediate_size=29568,
  num_hidden_layers=80,
  num_attention_heads=64,
  num_key_value_heads=8,
  max_position_embeddings=32768,
  rms_norm_eps=1e-5,
  rope_theta=1_000_000.0,
)
# fields of ours -> of vision_config
NAMES = {
  "hidden_size": "hidden_size",
  "intermediate_size": "intermediate_size",
  "num_layers": "depth",
  "num_heads": "num_heads",
  "patch_size": "patch_size",
  "merge_size": "spatial_merge_size",
  "window_size": "window_size",
  "frames": "temporal_patch_size",
}


def _vision(values: Fields, width: int, where: Path) -> QwenVisionConfig:
  given = {k: v for k, v in values.items() if v is not None}
  c = VISION_DEFAULTS | given
  want(c["hidden_act"], ("silu",), "vision_config.hidden_act", where)
  for name in ("in_channels", "in_chans"):
    want(c.get(name, 3), (3,), f"vision_config.{name}", where)
  want(c["out_hidden_size"], (width,), "vision_config.out_hidden_size", where)
  rope = section(c, "rope_parameters", where)
  want(rope.get("rope_theta", 1e4), (1e4,), "vision rope_theta", where)
  full = c["fullatt_block_indexes"]
  layers = integer(c, "depth", where, 10_000)
  if not isinstance(full, list) or not all(
    type(i) is int and 0 <= i < layers for i in full
  ):
    raise UserError(
      f"{where}: vision_config.fullatt_block_indexes is {full!r:.80}, want "
      f"a list of layers from 0 to {layers - 1}"
    )
  sizes: Any = {
    ours: integer(c, theirs, where) for ours, theirs in NAMES.items()
  }
  try:
    return QwenVisionConfig(**sizes, full_layers=tuple(full))
  except UserError as error:
    raise UserError(f"{where}: {error}") from error


def _decoder(values: Fields, where: Path) -> DecoderConfig:
  """A Qwen2 decoder whose tokens have three positions."""
  c = TEXT_DEFAULTS | {k: v for k, v in values.items() if v is not None}
  rope = section(c, "rope_parameters", where)
  rope = rope or section(c, "rope_scaling", where)
  sections = rope.get("mrope_section")
  whole = isinstance(sections, list) and all(type(n) is int for n in sections)
  if sections is None or not whole:
    raise UserError(
      f"{where}: mrope_section is {sections!r:.80}, want three whole numbers"
    )
  kind = rope.get("rope_type") or rope.get("type") or "mrope"
  want(kind, ("default", "mrope"), "the rope type", where)
  c["rope_theta"] = rope.get("rope_theta", c["rope_theta"])
  c["rope_parameters"] = c["rope_scaling"] = None
  for kind in c.get("layer_types") or ():
    want(kind, ("full_attention",), "layer_types", where)
  decoder = decoder_from(c, "qwen2", where)
  try:
    return dataclasses.replace(decoder, mrope_sections=tuple(sections))
  except UserError as error:
    raise UserError(f"{where}: {error}") from error


def _processor(folder: Path) -> tuple[Fields, Path]:
  """Fields of the image processor, and the file that has them."""
  for name in ("preprocessor_config.json", "processor_config.json"):
    where = folder / name
    if where.is_file():
      c = read_json(where)
      return section(c, "image_processor", where) or c, where
  raise UserError(
    f"{folder}: preprocessor_config.json is missing; it contains the limits "
    "of the picture size"
  )


def _layout(
  folder: Path, tower: QwenVisionConfig
) -> tuple[LayoutConfig, QwenVisionConfig]:
  """Sizes of pictures, and the tower with the mean and deviation of pixels.

  Raises:
    UserError: a processor that makes other patches than ours.
  """
  c, where = _processor(folder)
  for name, wanted in (
    ("patch_size", tower.patch_size),
    ("merge_size", tower.merge_size),
    ("temporal_patch_size", tower.frames),
    ("resample", 3),  # bicubic
    ("do_resize", True),
    ("do_rescale", True),
    ("do_normalize", True),
  ):
    if c.get(name) is not None:
      want(c[name], (wanted,), name, where)
  factor = number({"rescale_factor": 1 / 255} | c, "rescale_factor", where)
  if abs(factor - 1 / 255) > 1e-9:
    raise UserError(f"{where}: rescale_factor is {factor}, want 1/255")
  size = section(c, "size", where)
  pixels = []
  for flat, nested, default in (
    ("min_pixels", "shortest_edge", LayoutConfig.min_pixels),
    ("max_pixels", "longest_edge", LayoutConfig.max_pixels),
  ):
    value = c.get(flat) or size.get(nested) or default
    pixels.append(integer({flat: value}, flat, where))
  colours = {}
  for name, field in (("mean", "image_mean"), ("std", "image_std")):
    value = c.get(field, list(getattr(tower, name)))
    if not isinstance(value, list) or len(value) != 3:
      raise UserError(f"{where}: {field} is {value!r:.80}, want three numbers")
    colours[name] = tuple(number({field: v}, field, where) for v in value)
  return (
    LayoutConfig("native", min_pixels=pixels[0], max_pixels=pixels[1]),
    dataclasses.replace(tower, **colours),
  )


def from_hf(folder: Path) -> LlavaConfig:
  """Dimensions of a folder that Qwen2_5_VLForConditionalGeneration reads.

  Raises:
    UserError: a field that is missing, of another kind, or asks for something
      that we do not compute.
  """
  where = folder / "config.json"
  c = read_json(where)
  want(c.get("model_type"), (MODEL_TYPE,), "model_type", where)
  # flat up to transformers 4.51 and on the hub
  text = section(c, "text_config", where) or c
  # transformers ties where either says so
  tied = bool(c.get("tie_word_embeddings")) or bool(
    text.get("tie_word_embeddings")
  )
  decoder = _decoder(text | {"tie_word_embeddings": tied}, where)
  vision = _vision(
    section(c, "vision_config", where), decoder.hidden_size, where
  )
  layout, vision = _layout(folder, vision)
  return LlavaConfig(vision=vision, decoder=decoder, layout=layout)


def describe(folder: Path) -> Described:
  """`from_hf`, and the template: the folder's own where we wrote it."""
  where = folder / "config.json"
  said = section(read_json(where), "povid_jax", where)
  return Described(from_hf(folder), said.get("template") or "qwen2_vl")
