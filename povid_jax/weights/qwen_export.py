"""Qwen2.5-VL: its config.json and its processor, written."""

from povid_jax.models.config import LlavaConfig, QwenVisionConfig
from povid_jax.weights.hf_model import HfModel, Json
from povid_jax.weights.keys import MERGER_NAMES
from povid_jax.weights.qwen import MODEL_TYPE, NAMES
from povid_jax.weights.tokenizers import Exported


def _config_json(config: LlavaConfig, ids: Exported) -> Json:
  """As the hub has it: no text_config, its fields stand among the others."""
  decoder, vision = config.decoder, config.vision
  assert isinstance(vision, QwenVisionConfig)
  tower = {theirs: getattr(vision, ours) for ours, theirs in NAMES.items()}
  return {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": MODEL_TYPE,
    "vocab_size": ids.rows,
    "hidden_size": decoder.hidden_size,
    "intermediate_size": decoder.intermediate_size,
    "num_hidden_layers": decoder.num_layers,
    "num_attention_heads": decoder.num_heads,
    "num_key_value_heads": decoder.num_kv_heads,
    "hidden_act": "silu",
    "max_position_embeddings": decoder.max_positions,
    "rms_norm_eps": decoder.rms_norm_eps,
    "rope_theta": decoder.rope_theta,
    "rope_scaling": {
      "type": "mrope",
      "mrope_section": list(decoder.mrope_sections),
    },
    "use_sliding_window": False,
    "tie_word_embeddings": decoder.tie_embeddings,
    "vision_config": {
      "model_type": MODEL_TYPE,
      "hidden_act": "silu",
      "in_chans": 3,
      "out_hidden_size": decoder.hidden_size,
      "fullatt_block_indexes": list(vision.full_layers),
      **tower,
    },
    "image_token_id": ids.image,
    "video_token_id": ids.video,
    "vision_start_token_id": ids.start,
    "vision_end_token_id": ids.end,
    "bos_token_id": None,  # silence would mean the hub's
  }


def _processor_files(config: LlavaConfig) -> dict[str, Json]:
  tower, layout = config.vision, config.layout
  assert isinstance(tower, QwenVisionConfig)
  both: Json = {
    "processor_class": "Qwen2_5_VLProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "resample": 3,  # bicubic
    "size": {
      "shortest_edge": layout.min_pixels,
      "longest_edge": layout.max_pixels,
    },
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(tower.mean),
    "image_std": list(tower.std),
    "patch_size": tower.patch_size,
    "merge_size": tower.merge_size,
    "temporal_patch_size": tower.frames,
  }
  pictures = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": layout.min_pixels,
    "max_pixels": layout.max_pixels,
  }
  return {
    "preprocessor_config.json": both | pictures,
    "processor_config.json": {"processor_class": "Qwen2_5_VLProcessor"},
    # their processor wants one, though we know no videos
    "video_preprocessor_config.json": both
    | {"video_processor_type": "Qwen2VLVideoProcessor"},
  }


MODEL = HfModel(
  model_type=MODEL_TYPE,
  architecture="Qwen2_5_VLForConditionalGeneration",
  processor="Qwen2_5_VLProcessor",
  fits=lambda config: isinstance(config.vision, QwenVisionConfig),
  on_disk={
    "vision": "visual.",
    "projector": "visual.merger.",
    "decoder": "model.",
    "head": "lm_head.",
  },
  modules={
    "vision": "model.visual.",
    "projector": "model.visual.merger.",
    "decoder": "model.language_model.",
  },
  config_json=_config_json,
  processor_files=_processor_files,
  projector_names=MERGER_NAMES,
)
