"""Tiny random Qwen2.5-VLs in PyTorch, for the tests that compare with them."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
import transformers  # noqa: E402
from transformers.models.qwen2_vl import (  # noqa: E402
  image_processing_pil_qwen2_vl as pillow,
)

from tests.qwen_world import (  # noqa: E402
  END_ID,
  IMAGE_ID,
  START_ID,
  VIDEO_ID,
)
from tests.torch_models import randomise  # noqa: E402

# the dimensions of qwen_world.CONFIG
VISION = dict(
  depth=3,
  hidden_size=32,
  intermediate_size=40,
  num_heads=4,
  patch_size=7,
  window_size=28,
  out_hidden_size=48,
  fullatt_block_indexes=[1],
)
TEXT = dict(
  hidden_size=48,
  intermediate_size=80,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  vocab_size=96,
  bos_token_id=None,
  eos_token_id=2,
  max_position_embeddings=256,
  rms_norm_eps=1e-6,
  rope_parameters=dict(
    rope_type="default", rope_theta=10000.0, mrope_section=[1, 2, 3]
  ),
)


IDS = dict(
  image_token_id=IMAGE_ID,
  video_token_id=VIDEO_ID,
  vision_start_token_id=START_ID,
  vision_end_token_id=END_ID,
)


def qwen(
  seed: int = 0,
  ids: dict[str, int] = IDS,
  vision: dict[str, Any] = VISION,
  **text: Any,
) -> Any:
  """Qwen2_5_VLForConditionalGeneration, random weights, float32, eager."""
  config = transformers.Qwen2_5_VLConfig(
    vision_config=vision,
    text_config=TEXT | text,
    **ids,
    tie_word_embeddings=text.get("tie_word_embeddings", False),
  )
  config._attn_implementation = "eager"
  config.pad_token_id = 0
  model = transformers.Qwen2_5_VLForConditionalGeneration(config)
  model = randomise(model, seed)
  model.tie_weights()
  return model


def processor(**fields: Any) -> Any:
  """The image processor with Pillow that fits the tiny model."""
  return pillow.Qwen2VLImageProcessorPil(
    patch_size=7, min_pixels=28 * 28, max_pixels=120 * 120, **fields
  )
