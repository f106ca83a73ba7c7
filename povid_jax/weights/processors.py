"""Processor files of a folder that transformers opens."""

import json
from pathlib import Path
from typing import Any

from povid_jax.models.config import LlavaConfig
from povid_jax.weights import qwen
from povid_jax.weights.layouts import check_pair
from povid_jax.weights.tokenizers import IMAGE, VIDEO

_CLASSES = {
  "llava": ("LlavaProcessor", "LlavaImageProcessor"),
  "llava_next": ("LlavaNextProcessor", "LlavaNextImageProcessor"),
  "llava_onevision": (
    "LlavaOnevisionProcessor",
    "LlavaOnevisionImageProcessor",
  ),
  qwen.MODEL_TYPE: ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessor"),
}


def class_of(config: LlavaConfig) -> str:
  """The processor class of transformers for a model of ours."""
  return _CLASSES[check_pair(config)][0]


def pinpoints_of(config: LlavaConfig) -> list[list[int]]:
  """image_grid_pinpoints, as config.json and the processor have them."""
  return [list(pair) for pair in config.layout.pinpoints]


def aspect_of(config: LlavaConfig) -> str:
  """vision_aspect_ratio of LLaVA-OneVision."""
  return f"anyres_max_{config.layout.max_tiles}"


def _image_processor(config: LlavaConfig, kind: str) -> dict[str, Any]:
  vision = config.square_tower
  edge = vision.image_size
  square = {"height": edge, "width": edge}
  made: dict[str, Any] = {
    "image_processor_type": _CLASSES[kind][1],
    "processor_class": _CLASSES[kind][0],
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
    made["image_grid_pinpoints"] = pinpoints_of(config)
  if kind == "llava_onevision":
    return made | {"size": square}
  crop = {"do_center_crop": True, "crop_size": square}
  return made | {"size": {"shortest_edge": edge}} | crop


def _processor(config: LlavaConfig, kind: str) -> dict[str, Any]:
  made: dict[str, Any] = {
    "processor_class": _CLASSES[kind][0],
    "image_token": IMAGE,
  }
  if kind == "llava_onevision":
    return made | {
      "video_token": VIDEO,
      "num_image_tokens": config.image_tokens,
      "vision_feature_select_strategy": "full",
      "vision_aspect_ratio": aspect_of(config),
    }
  return made | {
    "patch_size": config.square_tower.patch_size,
    "num_additional_image_tokens": 1,  # the class token,
    "vision_feature_select_strategy": "default",  # which this drops again
  }


def _llava(config: LlavaConfig, kind: str) -> dict[str, dict[str, Any]]:
  """Files of a LLaVA's processor, by name."""
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


def _qwen(config: LlavaConfig) -> dict[str, dict[str, Any]]:
  """Files of Qwen2.5-VL's processor, by name."""
  return {
    "preprocessor_config.json": qwen.to_processor(config),
    "processor_config.json": {"processor_class": "Qwen2_5_VLProcessor"},
    "video_preprocessor_config.json": qwen.to_video_processor(config),
  }


def write_processor(
  target: Path, config: LlavaConfig, template: str | None
) -> None:
  """Writes preprocessor_config.json, processor_config.json, chat template.

  Args:
    template: the conversation template as Jinja, or None where it has no form
      of messages. It takes the place of what came with the tokenizer.
  """
  kind = check_pair(config)
  files = _qwen(config) if kind == qwen.MODEL_TYPE else _llava(config, kind)
  for name, value in files.items():
    (target / name).write_text(json.dumps(value, indent=2), encoding="utf-8")
  if template is not None:
    (target / "chat_template.json").unlink(missing_ok=True)
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")
