"""A whole model in the original (liuhaotian) layout.

What LLaVA's own load_pretrained_model reads, and with it lmms-eval's `llava`,
sglang and llama.cpp's surgery: a flat config.json, tensors named `model.*`, the
projector as `model.mm_projector.{0,2}`, the slow tokenizer.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from povid_jax.models.config import LlavaConfig, VisionConfig
from povid_jax.weights import export, hf_config, keys

# Published towers, by what tells them apart; LLaVA loads processor and sizes
# of the tower from there, and its weights from our files.
_TOWERS = {  # (class token, width, pixels of a patch and of an edge) -> name
  (True, 1024, 14, 336): "openai/clip-vit-large-patch14-336",
  (True, 1024, 14, 224): "openai/clip-vit-large-patch14",
  (False, 1152, 14, 384): "google/siglip-so400m-patch14-384",
}
_KINDS = {  # of the decoder -> (model_type, class)
  "llama": ("llava", "LlavaLlamaForCausalLM"),
  "mistral": ("llava_mistral", "LlavaMistralForCausalLM"),
  "qwen2": ("llava_qwen", "LlavaQwenForCausalLM"),
}
TOWER = "vision_tower"  # folder beside the weights


def published_tower(config: VisionConfig) -> str:
  """Name of the tower on the hub that has these sizes; "" for none."""
  c = config
  sizes = (c.class_token, c.hidden_size, c.patch_size, c.image_size)
  return _TOWERS.get(sizes, "")


def torch_name(entry: keys.Entry, name: str, config: LlavaConfig) -> str:
  """Key of a tensor in the original layout."""
  if entry.part == "projector":
    if config.projector == "linear":
      return "model.mm_projector." + name.removeprefix("linear_1.")
    # places in an nn.Sequential, with the activation between
    name = name.replace("linear_1", "0").replace("linear_2", "2")
    return f"model.mm_projector.{name}"
  inner = "model.vision_tower.vision_tower.vision_model."
  prefixes = {
    "vision": inner,
    "newline": "model.image_newline",
    "decoder": "model.",
    "head": "lm_head.",
  }
  return prefixes[entry.part] + name


def _pictures(config: LlavaConfig) -> dict[str, Any]:
  """The fields that say how pictures are taken."""
  layout = config.layout
  if layout.kind == "square":
    return {"image_aspect_ratio": "pad" if layout.mode == "pad" else "square"}
  most = f"_max_{layout.max_tiles}" if layout.max_tiles else ""
  return {
    "image_aspect_ratio": f"anyres{most}",
    "image_grid_pinpoints": [list(pair) for pair in layout.pinpoints],
    "mm_patch_merge_type": "spatial_unpad",
  }


def describe(
  config: LlavaConfig,
  rows: int,
  tower: str,
  tokens: Mapping[str, Any],
  manners: Mapping[str, str],
  dtype: str,
) -> dict[str, Any]:
  """The flat config.json.

  Args:
    rows: of the embedding.
    tower: name on the hub, or a folder.
    tokens: ids by the names bos_token_id, eos_token_id, pad_token_id.
    manners: template, for the way back.
    dtype: as PyTorch names it.

  Raises:
    UserError: a family that LLaVA's code does not have.
  """
  text = hf_config.to_text_config(config.decoder, rows)
  kind = text.pop("model_type")
  # as transformers 4.37 has it, which LLaVA's code pins
  del text["rope_parameters"]
  scaling = config.decoder.rope_scaling
  text["rope_scaling"] = None if scaling is None else dict(scaling)
  model_type, name = _KINDS[kind]
  return {
    **text,
    **{k: v for k, v in tokens.items() if v is not None},
    "architectures": [name],
    "model_type": model_type,
    "torch_dtype": dtype,
    "use_cache": True,
    **_pictures(config),
    "mm_hidden_size": config.square_tower.hidden_size,
    "mm_projector_type": config.projector,
    "mm_vision_tower": tower,
    # with SigLIP, LLaVA's code drops a layer and does not read this
    "mm_vision_select_layer": config.square_tower.feature_layer
    if config.square_tower.class_token
    else -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "use_mm_proj": True,
    "tune_mm_mlp_adapter": False,
    "freeze_mm_mlp_adapter": False,
    # the tower's weights are among these: LLaVA then takes them from here
    "unfreeze_mm_vision_tower": True,
    "povid_jax": dict(manners),
  }


def write(
  folder: Path,
  config: LlavaConfig,
  params: Mapping[str, Any],
  *,
  tuned: Sequence[export.Tuned] = (),
  tower: str,
  tokens: Mapping[str, Any],
  manners: Mapping[str, str],
) -> None:
  """Writes config.json, generation_config.json and weights.

  Args:
    folder: exists (a temporary folder of the caller).
    params, tuned: see `export.write_llava_hf`.
    tower: what mm_vision_tower is to name; a folder of that name beside the
      weights is written where it is `TOWER`, or ends with it.

  Raises:
    UserError: a model whose layout this is not.
  """
  rows = config.decoder.vocab_size
  named = lambda entry, name: torch_name(entry, name, config)
  tensors = dict(export.tensors(config, params, tuned, rows, named))
  dtype = export.torch_dtype(tensors["model.norm.weight"].dtype)
  described = describe(config, rows, tower, tokens, manners, dtype)
  _dump(folder / "config.json", described)
  given = {k: v for k, v in tokens.items() if v is not None}
  _dump(folder / "generation_config.json", given)
  export.write_shards(folder, tensors)
  if Path(tower).name == TOWER:
    _write_tower(folder / TOWER, config.square_tower, tensors, dtype)


def write_config(
  folder: Path,
  config: LlavaConfig,
  params: Mapping[str, Any],
  *,
  tuned: Sequence[export.Tuned] = (),
  tower: str,
  tokens: Mapping[str, Any],
  manners: Mapping[str, str],
) -> None:
  """config.json beside a LoRA adapter, from which LLaVA builds the model.

  Args: those of `write`.
  """
  rows = config.decoder.vocab_size
  if Path(tower).name == TOWER:
    named = lambda entry, name: torch_name(entry, name, config)
    tensors = dict(export.tensors(config, params, tuned, rows, named))
    dtype = export.torch_dtype(tensors["model.norm.weight"].dtype)
    _write_tower(folder / TOWER, config.square_tower, tensors, dtype)
  described = describe(config, rows, tower, tokens, manners, "float32")
  # no tower is among these weights
  _dump(folder / "config.json", described | {"unfreeze_mm_vision_tower": False})


def _write_tower(
  folder: Path,
  config: VisionConfig,
  tensors: Mapping[str, export.Lazy],
  dtype: str,
) -> None:
  """A tower with its processor, for one that no hub has.

  Args:
    tensors: of the whole model, by LLaVA's names.
  """
  prefix = "model.vision_tower.vision_tower."
  inner = {
    key.removeprefix(prefix): tensor
    for key, tensor in tensors.items()
    if key.startswith(prefix)
  }
  folder.mkdir()
  kind = "CLIP" if config.class_token else "Siglip"
  described = hf_config.to_vision_config(config) | {
    "architectures": [f"{kind}VisionModel"],
    "torch_dtype": dtype,
  }
  _dump(folder / "config.json", described)
  size = config.image_size
  processor = {
    "image_processor_type": f"{kind}ImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": size},
    "resample": 3,  # bicubic
    "do_center_crop": True,
    "crop_size": {"height": size, "width": size},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(config.mean),
    "image_std": list(config.std),
  }
  _dump(folder / "preprocessor_config.json", processor)
  export.write_safetensors(folder / "model.safetensors", inner)


def _dump(file: Path, value: Mapping[str, Any]) -> None:
  file.write_text(json.dumps(value, indent=2), encoding="utf-8")
