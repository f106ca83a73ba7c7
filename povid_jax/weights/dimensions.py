"""config.json of a PyTorch checkpoint to our dimensions, and back.

A field that would change the numbers and that we do not compute is refused by
name, so that a checkpoint either converts exactly or not at all.
"""

from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.models.config import DecoderConfig, LlavaConfig, VisionConfig
from povid_jax.weights.shards import Tensor, read_json

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
_VISION_DEFAULTS = dict(
  hidden_size=768,
  intermediate_size=3072,
  num_hidden_layers=12,
  num_attention_heads=12,
  image_size=224,
  patch_size=32,
  hidden_act="quick_gelu",
  layer_norm_eps=1e-5,
)
# transformers fills an absent vision_config with that of LLaVA-1.5
_LLAVA_VISION = dict(
  hidden_size=1024,
  intermediate_size=4096,
  num_hidden_layers=24,
  num_attention_heads=16,
  image_size=336,
  patch_size=14,
)
_VISION_NAMES = {
  "hidden_size": "hidden_size",
  "intermediate_size": "intermediate_size",
  "num_layers": "num_hidden_layers",
  "num_heads": "num_attention_heads",
  "image_size": "image_size",
  "patch_size": "patch_size",
  "activation": "hidden_act",
  "layer_norm_eps": "layer_norm_eps",
}
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}


def _want(value: Any, wanted: tuple, field: str, where: Path) -> None:
  if value not in wanted:
    choice = " or ".join(repr(w) for w in wanted)
    raise UserError(f"{where}: {field} is {value!r}, want {choice}")


def _rope(values: dict[str, Any], where: Path) -> tuple[float, dict | None]:
  """Theta and scaling, from the fields before and after transformers 5."""
  rope = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
  theta = rope.pop("rope_theta", None) or values.get("rope_theta") or 10000.0
  kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
  rope.pop("type", None)
  _want(kind, ("default", "linear", "llama3"), "the rope type", where)
  if kind == "default":
    return float(theta), None
  names = ["factor"]
  if kind == "llama3":
    names += ["low_freq_factor", "high_freq_factor"]
    names += ["original_max_position_embeddings"]
  lost = [name for name in names if name not in rope]
  if lost:
    raise UserError(f"{where}: rope scaling {kind!r} without {lost[0]}")
  return float(theta), {"type": kind} | {name: rope[name] for name in names}


def decoder_from(
  values: dict[str, Any], kind: str, where: Path
) -> DecoderConfig:
  """A decoder's dimensions from the fields of a Llama-family config.

  Args:
    values: the fields, of `text_config` or of an original config.json.
    kind: "llama", "mistral" or "qwen2".
    where: the file, for errors.
  """
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
    raise UserError(f"{where}: use_sliding_window is on, want it off")
  _want(c["hidden_act"], ("silu",), "hidden_act", where)
  _want(c.get("mlp_bias", False), (False,), "mlp_bias", where)
  theta, scaling = _rope(values, where)
  bias = kind == "qwen2" or bool(c.get("attention_bias", False))
  return DecoderConfig(
    vocab_size=c["vocab_size"],
    hidden_size=c["hidden_size"],
    intermediate_size=c["intermediate_size"],
    num_layers=c["num_hidden_layers"],
    num_heads=c["num_attention_heads"],
    num_kv_heads=c["num_key_value_heads"] or c["num_attention_heads"],
    head_dim=c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"],
    rope_theta=theta,
    rope_scaling=scaling,
    max_positions=c["max_position_embeddings"],
    rms_norm_eps=c["rms_norm_eps"],
    attention_bias=bias,
    output_bias=bias and kind == "llama",
    tie_embeddings=c["tie_word_embeddings"],
    sliding_window=window if kind != "llama" else None,
  )


def vision_from(
  values: dict[str, Any], feature_layer: int, where: Path
) -> VisionConfig:
  """A CLIP tower's dimensions from the fields of a CLIPVisionConfig."""
  c = _VISION_DEFAULTS | {k: v for k, v in values.items() if v is not None}
  _want(c.get("num_channels", 3), (3,), "num_channels", where)
  if not isinstance(feature_layer, int):
    raise UserError(
      f"{where}: the vision feature layer is {feature_layer!r}, "
      "want one integer"
    )
  fields: dict[str, Any] = {
    ours: c[theirs] for ours, theirs in _VISION_NAMES.items()
  }
  act = fields["activation"]
  fields["activation"] = _ACTIVATIONS.get(act, act)
  return VisionConfig(**fields, feature_layer=feature_layer)


def from_llava_hf(folder: Path) -> LlavaConfig:
  """Dimensions of a folder that LlavaForConditionalGeneration reads."""
  where = folder / "config.json"
  c = read_json(where)
  text = c.get("text_config") or {}
  kind = text.get("model_type", "llama")
  _want(kind, tuple(_DECODER_DEFAULTS), "text_config.model_type", where)
  strategy = c.get("vision_feature_select_strategy", "default")
  _want(strategy, ("default",), "vision_feature_select_strategy", where)
  act = c.get("projector_hidden_act", "gelu")
  _want(act, ("gelu",), "projector_hidden_act", where)
  bias = c.get("multimodal_projector_bias", True)
  _want(bias, (True,), "multimodal_projector_bias", where)
  vision = c.get("vision_config") or _LLAVA_VISION
  tower = vision.get("model_type", "clip_vision_model")
  _want(tower, ("clip_vision_model",), "vision_config.model_type", where)
  # the outer field decides for the whole model, the inner one for old files
  tied = c.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
  return LlavaConfig(
    vision=vision_from(vision, c.get("vision_feature_layer", -2), where),
    decoder=decoder_from(text | {"tie_word_embeddings": tied}, kind, where),
  )


def _clip_folder(folder: Path, feature_layer: int) -> VisionConfig:
  where = folder / "config.json"
  c = read_json(where)
  c = c.get("vision_config", c)
  return vision_from(c, feature_layer, where)


def _from_tensors(
  tensors: dict[str, Tensor], feature_layer: int, where: Path
) -> VisionConfig:
  """A tower's dimensions from its shapes, for towers that CLIP published."""
  ends = {key: t.shape for key, t in tensors.items() if "vision_tower" in key}
  shape = lambda end: next(s for k, s in ends.items() if k.endswith(end))
  try:
    hidden, _, patch, _ = shape("patch_embedding.weight")
    positions, _ = shape("position_embedding.weight")
    wide, _ = shape("layers.0.mlp.fc1.weight")
  except (StopIteration, ValueError) as error:
    raise UserError(
      f"{where}: no vision tower in it; give --vision-tower, a folder with "
      "CLIP's config.json and weights"
    ) from error
  layers = sum(key.endswith(".mlp.fc1.weight") for key in ends)
  side = round((positions - 1) ** 0.5)
  if hidden % 64 or side * side != positions - 1:
    raise UserError(
      f"{where}: the number of heads of a tower of width {hidden} cannot be "
      "told from its weights; give --vision-tower, a folder with config.json"
    )
  return VisionConfig(
    hidden_size=hidden,
    intermediate_size=wide,
    num_layers=layers,
    num_heads=hidden // 64,  # every CLIP
    image_size=side * patch,
    patch_size=patch,
    feature_layer=feature_layer,
  )


def from_original(
  folder: Path, tensors: dict[str, Tensor], vision_tower: Path | None
) -> LlavaConfig:
  """Dimensions of a folder in the original (liuhaotian) layout.

  Args:
    folder: has the flat config.json.
    tensors: the folder's tensors, which may hold the vision tower.
    vision_tower: a CLIP folder, or None where the tower is inside.
  """
  where = folder / "config.json"
  c = read_json(where)
  name = f"{c.get('model_type', '')} {c.get('architectures', '')}".lower()
  kind = next((k for k in ("mistral", "qwen2") if k in name), "llama")
  projector = c.get("mm_projector_type", "linear")
  _want(projector, ("mlp2x_gelu", "linear"), "mm_projector_type", where)
  _want(
    c.get("mm_vision_select_feature", "patch"),
    ("patch",),
    "mm_vision_select_feature",
    where,
  )
  for field in ("mm_use_im_start_end", "mm_use_im_patch_token"):
    _want(bool(c.get(field)), (False,), field, where)
  layer = c.get("mm_vision_select_layer", -2)
  if vision_tower is not None:
    vision = _clip_folder(vision_tower, layer)
  else:
    vision = _from_tensors(tensors, layer, folder)
  decoder = decoder_from(c, kind, where)
  return LlavaConfig(vision=vision, decoder=decoder, projector=projector)


def manners_of(folder: Path) -> tuple[str, str]:
  """(conversation template, image mode) that fit a checkpoint.

  A folder that we wrote says so itself. Else LLaVA's authors' pairing: Mistral
  decoders were tuned on [INST], the others on Vicuna's words. LLaVA-1.5 saw
  padded pictures, so an llava-hf folder whose processor merely resizes gets
  "pad" all the same.
  """
  c = read_json(folder / "config.json")
  said = c.get("povid_jax") or {}
  name = (
    f"{c.get('model_type')} {c.get('architectures')} {c.get('text_config')}"
  )
  mistral = "mistral" in name.lower()
  template = said.get("template") or (
    "mistral_instruct" if mistral else "vicuna_v1"
  )
  default = "pad" if "text_config" in c else "square"
  aspect = c.get("image_aspect_ratio") or default
  mode = said.get("image_mode") or ("pad" if aspect == "pad" else "resize")
  return template, mode


def to_text_config(config: DecoderConfig, vocab_size: int) -> dict[str, Any]:
  """`text_config` of an llava-hf folder, for transformers before and after 5.

  Raises:
    UserError: a mix of biases that no published decoder has.
  """
  if config.sliding_window is not None:
    kind = "mistral"
  elif config.attention_bias and not config.output_bias:
    kind = "qwen2"
  else:
    kind = "llama"
  if (kind == "mistral" and config.attention_bias) or (
    config.output_bias and not config.attention_bias
  ):
    raise UserError("no transformers decoder has these biases and this window")
  scaling = config.rope_scaling
  rope = {"rope_type": "default"}
  if scaling is not None:
    rope = {k: v for k, v in scaling.items() if k != "type"}
    rope["rope_type"] = scaling.get("type", scaling.get("rope_type"))
  extra: dict[str, Any] = {}
  if kind == "llama":
    extra["attention_bias"] = config.attention_bias
  if kind == "mistral":
    extra["sliding_window"] = config.sliding_window
  return {
    "model_type": kind,
    "vocab_size": vocab_size,
    "hidden_size": config.hidden_size,
    "intermediate_size": config.intermediate_size,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads,
    "head_dim": config.head_dim,
    "hidden_act": "silu",
    "max_position_embeddings": config.max_positions,
    "rms_norm_eps": config.rms_norm_eps,
    "rope_theta": config.rope_theta,
    "rope_scaling": rope if scaling is not None else None,
    "rope_parameters": rope | {"rope_theta": config.rope_theta},
    "tie_word_embeddings": config.tie_embeddings,
    **extra,
  }


def to_vision_config(config: VisionConfig) -> dict[str, Any]:
  names = {v: k for k, v in _ACTIVATIONS.items() if k != "gelu_new"}
  values = {
    theirs: getattr(config, ours) for ours, theirs in _VISION_NAMES.items()
  }
  act = names.get(config.activation, config.activation)
  return values | {
    "model_type": "clip_vision_model",
    "hidden_act": act,
    "projection_dim": 768,
  }
