"""config.json of a PyTorch checkpoint to our dimensions.

A field that would change the numbers and that we do not compute is refused by
name, so that a checkpoint either converts exactly or not at all.
"""

from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.models.config import DecoderConfig, LlavaConfig, VisionConfig
from povid_jax.weights.fields import Fields, integer, number, section, want
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
VISION_NAMES = {
  "hidden_size": "hidden_size",
  "intermediate_size": "intermediate_size",
  "num_layers": "num_hidden_layers",
  "num_heads": "num_attention_heads",
  "image_size": "image_size",
  "patch_size": "patch_size",
  "activation": "hidden_act",
  "layer_norm_eps": "layer_norm_eps",
}
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}


def _most(field: str) -> int:
  """More layers are a slip that would fill the memory with their names."""
  return 10_000 if field == "num_hidden_layers" else 10**9


def _rope(values: Fields, where: Path) -> tuple[float, dict | None]:
  """Theta and scaling, from the fields before and after transformers 5."""
  newer = section(values, "rope_parameters", where)
  rope = newer or section(values, "rope_scaling", where)
  given = {"rope_theta": values.get("rope_theta")} | rope
  if given["rope_theta"] is None:
    given["rope_theta"] = 10000.0
  theta = number(given, "rope_theta", where)
  want(
    rope.get("partial_rotary_factor", 1), (1,), "partial_rotary_factor", where
  )
  kind = rope.get("rope_type") or rope.get("type") or "default"
  want(kind, ("default", "linear", "llama3"), "the rope type", where)
  if kind == "default":
    return theta, None
  names = ["factor"]
  if kind == "llama3":
    names += ["low_freq_factor", "high_freq_factor"]
    names += ["original_max_position_embeddings"]
  lost = [name for name in names if name not in rope]
  if lost:
    raise UserError(f"{where}: rope scaling {kind!r} without {lost[0]}")
  for name in names:
    number(rope, name, where)
  return theta, {"type": kind} | {name: rope[name] for name in names}


def decoder_from(values: Fields, kind: str, where: Path) -> DecoderConfig:
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
  want(c["hidden_act"], ("silu",), "hidden_act", where)
  want(c.get("mlp_bias", False), (False,), "mlp_bias", where)
  want(c.get("partial_rotary_factor", 1), (1,), "partial_rotary_factor", where)
  theta, scaling = _rope(values, where)
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
      f"of {head_dim}; want a multiple of the second, and an even head_dim"
    )
  if kind == "llama":
    window = None
  elif window is not None:
    window = integer({"sliding_window": window}, "sliding_window", where)
  return DecoderConfig(
    vocab_size=integer(c, "vocab_size", where),
    hidden_size=hidden,
    intermediate_size=integer(c, "intermediate_size", where),
    num_layers=integer(c, layers, where, _most(layers)),
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


def _feature_layer(value: Any, layers: int, where: Path) -> int:
  """An index into [embeddings, layer 1, ..., layer n], as transformers has."""
  whole = isinstance(value, int) and not isinstance(value, bool)
  if not whole or not -layers - 1 <= value <= layers:
    raise UserError(
      f"{where}: the vision feature layer is {value!r:.80}, want one integer "
      f"from {-layers - 1} to {layers}"
    )
  return value


def vision_from(
  values: Fields, feature_layer: Any, where: Path, said_in: Path | None = None
) -> VisionConfig:
  """A CLIP tower's dimensions from the fields of a CLIPVisionConfig.

  Args:
    values: the fields.
    feature_layer: index of the layer whose output is used.
    where: the file of the fields, for errors.
    said_in: the file of the feature layer, if that is another one.
  """
  c = _VISION_DEFAULTS | {k: v for k, v in values.items() if v is not None}
  want(c.get("num_channels", 3), (3,), "num_channels", where)
  sizes: dict[str, Any] = {
    ours: integer(c, theirs, where, _most(theirs))
    for ours, theirs in VISION_NAMES.items()
    if isinstance(_VISION_DEFAULTS[theirs], int)
  }
  if sizes["hidden_size"] % sizes["num_heads"]:
    raise UserError(
      f"{where}: hidden_size {sizes['hidden_size']}, want a multiple of "
      f"{sizes['num_heads']} num_attention_heads"
    )
  act = str(c["hidden_act"])
  return VisionConfig(
    **sizes,
    activation=ACTIVATIONS.get(act, act),
    layer_norm_eps=number(c, "layer_norm_eps", where),
    feature_layer=_feature_layer(
      feature_layer, sizes["num_layers"], said_in or where
    ),
  )


def from_llava_hf(folder: Path) -> LlavaConfig:
  """Dimensions of a folder that LlavaForConditionalGeneration reads."""
  where = folder / "config.json"
  c = read_json(where)
  text = section(c, "text_config", where)
  kind = text.get("model_type", "llama")
  want(kind, tuple(_DECODER_DEFAULTS), "text_config.model_type", where)
  strategy = c.get("vision_feature_select_strategy", "default")
  want(strategy, ("default",), "vision_feature_select_strategy", where)
  act = c.get("projector_hidden_act", "gelu")
  want(act, ("gelu",), "projector_hidden_act", where)
  bias = c.get("multimodal_projector_bias", True)
  want(bias, (True,), "multimodal_projector_bias", where)
  vision = section(c, "vision_config", where) or _LLAVA_VISION
  tower = vision.get("model_type", "clip_vision_model")
  want(tower, ("clip_vision_model",), "vision_config.model_type", where)
  # the outer field decides for the whole model, the inner one for old files
  tied = c.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
  return LlavaConfig(
    vision=vision_from(vision, c.get("vision_feature_layer", -2), where),
    decoder=decoder_from(text | {"tie_word_embeddings": tied}, kind, where),
  )


def _clip_folder(
  folder: Path, feature_layer: Any, said_in: Path
) -> VisionConfig:
  where = folder / "config.json"
  c = read_json(where)
  inner = section(c, "vision_config", where)
  return vision_from(inner or c, feature_layer, where, said_in)


def _from_tensors(
  tensors: dict[str, Tensor], feature_layer: Any, where: Path
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
    feature_layer=_feature_layer(feature_layer, layers, where / "config.json"),
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
  want(projector, ("mlp2x_gelu", "linear"), "mm_projector_type", where)
  want(
    c.get("mm_vision_select_feature", "patch"),
    ("patch",),
    "mm_vision_select_feature",
    where,
  )
  for field in ("mm_use_im_start_end", "mm_use_im_patch_token"):
    want(bool(c.get(field)), (False,), field, where)
  layer = c.get("mm_vision_select_layer", -2)
  if vision_tower is not None:
    vision = _clip_folder(vision_tower, layer, where)
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
  said = section(c, "povid_jax", folder / "config.json")
  if c.get("model_type") == "qwen2_5_vl":
    return said.get("template") or "qwen2_vl", "pad"
  name = (
    f"{c.get('model_type')} {c.get('architectures')} {c.get('text_config')}"
  )
  mistral = "mistral" in name.lower()
  template = said.get("template") or (
    "mistral_instruct" if mistral else "vicuna_v1"
  )
  default = "pad" if "text_config" in c else "square"
  aspect = c.get("image_aspect_ratio") or default
  known = ("pad", "square", "resize")  # not "anyres", which cuts into tiles
  want(aspect, known, "image_aspect_ratio", folder / "config.json")
  mode = said.get("image_mode") or ("pad" if aspect == "pad" else "resize")
  return template, mode
