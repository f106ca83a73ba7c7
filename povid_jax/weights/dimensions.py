"""config.json of a PyTorch checkpoint to our dimensions.

A field that changes the results and is not implemented is refused by name, so
that a checkpoint converts either exactly or not at all.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, NamedTuple

from povid_jax.errors import UserError
from povid_jax.models.config import DecoderConfig, LlavaConfig
from povid_jax.weights import layouts, named_tower, rope_fields, towers
from povid_jax.weights.fields import (
  Fields,
  integer,
  number,
  refuse_changes,
  section,
  want,
)
from povid_jax.weights.safetensors_file import Tensor
from povid_jax.weights.shards import read_json

# What transformers assumes where config.json is silent; checked by a test.
_DECODER_DEFAULTS: dict[str, dict[str, Any]] = {
  "llama": dict(
    intermediate_size=11008,
    num_key_value_heads=None,
    max_position_embeddings=2048,
    sliding_window=None,
    vocab_size=32000,
  ),
  "mistral": dict(
    intermediate_size=14336,
    num_key_value_heads=8,
    max_position_embeddings=131072,
    sliding_window=4096,
    vocab_size=32000,
  ),
  "qwen2": dict(
    intermediate_size=22016,
    num_key_value_heads=32,
    max_position_embeddings=32768,
    sliding_window=4096,
    vocab_size=151936,
  ),
}


@dataclasses.dataclass(frozen=True)
class Family:
  """A model class of transformers.

  Attributes:
    tower: its vision tower, a name in towers.TOWERS.
    feature_layer: where config.json is silent, as the next.
    vision: what transformers fills an absent vision_config with.
    text: kind of the decoder.
  """

  tower: str
  feature_layer: int
  vision: dict[str, Any]
  text: str


_CLIP_L = dict(
  hidden_size=1024,
  intermediate_size=4096,
  num_hidden_layers=24,
  num_attention_heads=16,
  image_size=336,
  patch_size=14,
)
_SO400M = dict(
  hidden_size=1152,
  intermediate_size=4304,
  num_hidden_layers=26,
  num_attention_heads=16,
  image_size=384,
  patch_size=14,
)
FAMILIES = {
  "llava": Family("clip_vision_model", -2, _CLIP_L, "llama"),
  "llava_next": Family("clip_vision_model", -2, _CLIP_L, "llama"),
  "llava_onevision": Family("siglip_vision_model", -1, _SO400M, "qwen2"),
}
# model_type, or class name, of LLaVA's own code -> kind of the decoder
_ORIGINAL_TYPES = {
  "llava_llama": "llama",
  "llava_mistral": "mistral",
  "llava_qwen": "qwen2",
}
_ORIGINAL_CLASSES = {
  "LlavaLlamaForCausalLM": "llama",
  "LlavaMistralForCausalLM": "mistral",
  "LlavaQwenForCausalLM": "qwen2",
}


def decoder_from(values: Fields, kind: str, where: Path) -> DecoderConfig:
  """A decoder's dimensions from the fields of a Llama-family config.

  Args:
    values: the fields, of `text_config` or of an original config.json.
    kind: "llama", "mistral" or "qwen2".
    where: the file, for errors.

  Raises:
    UserError: a field describes a model that is not implemented.
  """
  refuse_changes(values, where)
  common: dict[str, Any] = dict(
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    hidden_act="silu",
  )
  given = {k: v for k, v in values.items() if v is not None}
  c = common | _DECODER_DEFAULTS[kind] | given
  # null switches the window off where silence would leave it on
  window = values.get("sliding_window", c["sliding_window"])
  if kind == "qwen2" and not c.get("use_sliding_window"):
    window = None
  elif kind == "qwen2":
    raise UserError(f"{where}: use_sliding_window is true, want false")
  want(c["hidden_act"], ("silu",), "hidden_act", where)
  want(c.get("mlp_bias", False), (False,), "mlp_bias", where)
  want(c.get("partial_rotary_factor", 1), (1,), "partial_rotary_factor", where)
  theta, scaling = rope_fields.read(values, where)
  bias = kind == "qwen2" or bool(c.get("attention_bias", False))
  layers = "num_hidden_layers"
  heads, hidden = (
    integer(c, name, where) for name in ("num_attention_heads", "hidden_size")
  )
  c["num_key_value_heads"] = c["num_key_value_heads"] or heads
  c["head_dim"] = c.get("head_dim") or hidden // heads
  kv_heads, head_dim = (
    integer(c, name, where) for name in ("num_key_value_heads", "head_dim")
  )
  if heads % kv_heads or head_dim % 2:
    raise UserError(
      f"{where}: {heads} heads, {kv_heads} num_key_value_heads and a head_dim "
      f"of {head_dim}; want a multiple of num_key_value_heads, and an even "
      "head_dim"
    )
  if kind == "llama":
    window = None
  elif window is not None:
    window = integer({"sliding_window": window}, "sliding_window", where)
  return DecoderConfig(
    vocab_size=integer(c, "vocab_size", where),
    hidden_size=hidden,
    intermediate_size=integer(c, "intermediate_size", where),
    num_layers=integer(c, layers, where, towers.most(layers)),
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_dim=head_dim,
    rope_theta=theta,
    rope_scaling=scaling,
    max_positions=integer(c, "max_position_embeddings", where),
    rms_norm_eps=number(c, "rms_norm_eps", where),
    attention_bias=bias,
    output_bias=bias and kind == "llama",
    tie_embeddings=bool(c["tie_word_embeddings"]),
    sliding_window=window,
  )


class Described(NamedTuple):
  """The dimensions and the template of a checkpoint, from its files."""

  config: LlavaConfig
  template: str


def from_llava_hf(folder: Path) -> Described:
  """Reads a folder of LLaVA, LLaVA-NeXT or LLaVA-OneVision of transformers."""
  where = folder / "config.json"
  c = read_json(where)
  want(c.get("model_type"), tuple(FAMILIES), "model_type", where)
  family = FAMILIES[c["model_type"]]
  text = section(c, "text_config", where)
  kind = text.get("model_type", family.text)
  want(kind, tuple(_DECODER_DEFAULTS), "text_config.model_type", where)
  vision = section(c, "vision_config", where) or family.vision
  tower = vision.get("model_type", family.tower)
  want(tower, (family.tower,), "vision_config.model_type", where)
  keeps = towers.TOWERS[tower].strategy
  strategy = c.get("vision_feature_select_strategy", keeps)
  want(strategy, (keeps,), "vision_feature_select_strategy", where)
  act = c.get("projector_hidden_act", "gelu")
  want(act, ("gelu",), "projector_hidden_act", where)
  bias = c.get("multimodal_projector_bias", True)
  want(bias, (True,), "multimodal_projector_bias", where)
  if c["model_type"] == "llava_next" and kind == "mistral":
    _warn_of_theta(text, where)
  # transformers ties where either of the two says so
  tied = any(fields.get("tie_word_embeddings") for fields in (c, text))
  layer = c.get("vision_feature_layer", family.feature_layer)
  seen = towers.vision_from(vision, layer, where, kind=tower)
  layout = layouts.of_hf(c, seen.image_size, where)
  decoder = decoder_from(text | {"tie_word_embeddings": tied}, kind, where)
  return Described(
    LlavaConfig(
      vision=layouts.check_processor(folder, seen, layout),
      decoder=decoder,
      layout=layout,
    ),
    layouts.template_of(c, layout, decoder, kind),
  )


def _warn_of_theta(text: Fields, where: Path) -> None:
  """The first conversions of LLaVA-1.6-Mistral to transformers left it out."""
  if "rope_theta" not in text and not text.get("rope_parameters"):
    print(
      f"{where}: text_config has no rope_theta, so it is 10,000 as in "
      "transformers; LLaVA-1.6-Mistral was trained with 1,000,000 and no "
      "sliding window: check that the folder is complete",
      file=sys.stderr,
    )


def _original_kind(c: Fields, where: Path) -> str:
  """Kind of the decoder of an original checkpoint, by its model_type.

  The published ones of all decoders call themselves "llava", and are then told
  apart by their class.
  """
  named: Any = c.get("model_type")
  want(named, ("llava", *_ORIGINAL_TYPES), "model_type", where)
  kind = _ORIGINAL_TYPES.get(named)
  known = [n for n, k in _ORIGINAL_CLASSES.items() if kind in (None, k)]
  classes = c.get("architectures") or known[:1]
  name = classes[0] if isinstance(classes, list) else classes
  want(name, tuple(known), "architectures", where)
  return _ORIGINAL_CLASSES[name]


def from_original(
  folder: Path,
  tensors: dict[str, Tensor],
  vision_tower: Path | None,
  image_mode: str | None = None,
) -> Described:
  """Reads a folder in the original (liuhaotian, lmms-lab) layout.

  Args:
    folder: has the flat config.json.
    tensors: the folder's tensors, which may hold the vision tower.
    vision_tower: a CLIP or SigLIP folder, or None where the tower is inside.
    image_mode: how pictures become squares, whatever the file says.
  """
  where = folder / "config.json"
  c = read_json(where)
  if image_mode is not None:
    c = c | {"image_aspect_ratio": image_mode}
  kind = _original_kind(c, where)
  projector = c.get("mm_projector_type", "linear")
  want(projector, ("mlp2x_gelu", "linear"), "mm_projector_type", where)
  want(
    c.get("mm_vision_select_feature", "patch"),
    ("patch",),
    "mm_vision_select_feature",
    where,
  )
  # LLaVA-NeXT's code changes or drops features with it
  resampler = c.get("mm_resampler_type")
  want(resampler, (None, "", "identity"), "mm_resampler_type", where)
  for field in ("mm_use_im_start_end", "mm_use_im_patch_token"):
    want(bool(c.get(field)), (False,), field, where)
  vision = towers.of_original(folder, c, tensors, vision_tower)
  if vision_tower is not None:
    named_tower.check(c.get("mm_vision_tower"), vision, vision_tower, where)
  layout = layouts.of_original(c, vision.image_size, where)
  decoder = decoder_from(c, kind, where)
  return Described(
    LlavaConfig(vision, decoder, projector, layout),
    layouts.template_of(c, layout, decoder, kind),
  )
