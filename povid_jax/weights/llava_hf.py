"""LLaVA-1.5, -NeXT and -OneVision: config.json and processor, written."""

import functools

from povid_jax.models.config import LlavaConfig, VisionConfig
from povid_jax.weights import hf_config
from povid_jax.weights.hf_model import HfModel, Json
from povid_jax.weights.tokenizers import IMAGE, VIDEO, Exported
from povid_jax.weights.towers import TOWERS, kind_of

_NAMES = {
  "llava": "Llava",
  "llava_next": "LlavaNext",
  "llava_onevision": "LlavaOnevision",
}
# Names on disk that every transformers since 4.36 reads.
_ON_DISK = {
  "vision": "vision_tower.vision_model.",
  "projector": "multi_modal_projector.",
  "newline": "image_newline",
  "decoder": "language_model.model.",
  "head": "language_model.lm_head.",
}
_MODULES = {
  "vision": "model.vision_tower.",
  "projector": "model.multi_modal_projector.",
  "decoder": "model.language_model.",
}


def _pinpoints(config: LlavaConfig) -> list[list[int]]:
  """image_grid_pinpoints, as config.json and the processor have them."""
  return [list(pair) for pair in config.layout.pinpoints]


def _aspect(config: LlavaConfig) -> str:
  """vision_aspect_ratio of LLaVA-OneVision."""
  return f"anyres_max_{config.layout.max_tiles}"


def _image_processor(config: LlavaConfig, kind: str) -> Json:
  vision = config.square_tower
  edge = vision.image_size
  square = {"height": edge, "width": edge}
  made: Json = {
    "image_processor_type": f"{_NAMES[kind]}ImageProcessor",
    "processor_class": f"{_NAMES[kind]}Processor",
    "do_convert_rgb": True,
    "do_pad": kind != "llava" or config.layout.mode == "pad",
    "do_resize": True,
    "resample": 3,  # bicubic
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(vision.mean),
    "image_std": list(vision.std),
  }
  if kind != "llava":
    made["image_grid_pinpoints"] = _pinpoints(config)
  if kind == "llava_onevision":
    return made | {"size": square}
  crop = {"do_center_crop": True, "crop_size": square}
  return made | {"size": {"shortest_edge": edge}} | crop


def _processor(config: LlavaConfig, kind: str) -> Json:
  made: Json = {
    "processor_class": f"{_NAMES[kind]}Processor",
    "image_token": IMAGE,
  }
  if kind == "llava_onevision":
    return made | {
      "video_token": VIDEO,
      "num_image_tokens": config.image_tokens,
      "vision_feature_select_strategy": "full",
      "vision_aspect_ratio": _aspect(config),
    }
  return made | {
    "patch_size": config.square_tower.patch_size,
    "num_additional_image_tokens": 1,  # the class token,
    "vision_feature_select_strategy": "default",  # which this drops again
  }


def _processor_files(config: LlavaConfig, kind: str) -> dict[str, Json]:
  made = {
    "preprocessor_config.json": _image_processor(config, kind),
    "processor_config.json": _processor(config, kind),
  }
  if kind == "llava_onevision":
    # its processor wants one, though we know no videos
    vision = config.square_tower
    made["video_preprocessor_config.json"] = {
      "video_processor_type": "LlavaOnevisionVideoProcessor",
      "image_mean": list(vision.mean),
      "image_std": list(vision.std),
      "size": {"height": vision.image_size, "width": vision.image_size},
    }
  return made


def _config_json(config: LlavaConfig, ids: Exported, kind: str) -> Json:
  described: Json = {
    "architectures": [f"{_NAMES[kind]}ForConditionalGeneration"],
    "model_type": kind,
    "image_token_index": ids.image,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": config.square_tower.feature_layer,
    "vision_feature_select_strategy": TOWERS[
      kind_of(config.square_tower)
    ].strategy,
    "tie_word_embeddings": config.decoder.tie_embeddings,
    "text_config": hf_config.to_text_config(config.decoder, ids.rows),
    "vision_config": hf_config.to_vision_config(config.square_tower),
  }
  if kind == "llava_onevision":
    described["video_token_index"] = ids.video
    described["vision_aspect_ratio"] = _aspect(config)
  else:
    described["image_seq_length"] = config.image_tokens
  if kind != "llava":
    described["image_grid_pinpoints"] = _pinpoints(config)
  return described


def _kind(config: LlavaConfig) -> str:
  """model_type of the LLaVA with this tower and layout; "" for none."""
  layout, vision = config.layout, config.vision
  if not isinstance(vision, VisionConfig):
    return ""
  clip = vision.class_token
  if layout.kind == "square" and clip:
    return "llava"
  if layout.kind == "anyres" and layout.reader == "transformers":
    if clip and not layout.max_tiles and layout.several == "tiles":
      return "llava_next"
    if not clip and layout.max_tiles and layout.several == "square":
      return "llava_onevision"
  return ""


MODELS = tuple(
  HfModel(
    model_type=kind,
    architecture=f"{name}ForConditionalGeneration",
    processor=f"{name}Processor",
    fits=lambda config, kind=kind: _kind(config) == kind,
    on_disk=_ON_DISK,
    modules=_MODULES,
    config_json=functools.partial(_config_json, kind=kind),
    processor_files=functools.partial(_processor_files, kind=kind),
  )
  for kind, name in _NAMES.items()
)
