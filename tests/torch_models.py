"""Tiny random LLaVAs in PyTorch, for the tests that compare with them."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
import transformers  # noqa: E402

IMAGE_ID = 90
VISION = dict(
  hidden_size=32,
  intermediate_size=56,
  num_hidden_layers=3,
  num_attention_heads=4,
  image_size=28,
  patch_size=7,
  projection_dim=16,
)
TEXT = dict(
  hidden_size=48,
  intermediate_size=80,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=4,
  vocab_size=96,
  max_position_embeddings=256,
  rms_norm_eps=1e-5,
)

# name -> (decoder class's model_type, decoder fields, vision fields)
SHAPES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
  "mha": ("llama", {}, {}),
  "gqa": ("llama", dict(num_key_value_heads=2), {}),
  "bias": ("llama", dict(attention_bias=True, num_key_value_heads=2), {}),
  "tied": ("llama", dict(tie_word_embeddings=True), {}),
  "head_dim": ("llama", dict(head_dim=16, num_key_value_heads=1), {}),
  "large_image": ("llama", {}, dict(image_size=42, patch_size=6)),
  "linear_rope": (
    "llama",
    dict(
      rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=5000.0)
    ),
    {},
  ),
  "llama3_rope": (
    "llama",
    dict(
      rope_parameters=dict(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=32,
        rope_theta=500000.0,
      )
    ),
    {},
  ),
  "mistral": (
    "mistral",
    dict(num_key_value_heads=2, sliding_window=None),
    {},
  ),
  "window": ("mistral", dict(num_key_value_heads=2, sliding_window=9), {}),
  "qwen2": ("qwen2", dict(num_key_value_heads=2), {}),
}


def randomise(model: Any, seed: int = 0) -> Any:
  """Weights large enough that every operation shows in the result."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, p in sorted(model.named_parameters()):
      noise = torch.randn(p.shape, generator=generator)
      fan_in = p[0].numel() if p.ndim > 1 else 1
      if p.ndim > 1:
        scale = 1.0 if "embed" in name and "patch" not in name else fan_in**-0.5
        p.copy_(noise * scale)
      else:
        p.copy_(0.1 * noise + (1.0 if name.endswith("norm.weight") else 0.0))
        if "norm" in name and name.endswith("weight"):
          p.copy_(1.0 + 0.1 * noise)
  return model.float().eval()


def llava_config(shape: str = "gqa", **fields: Any) -> Any:
  """Config of a shape; `fields` are those of its decoder."""
  kind, text, vision = SHAPES[shape]
  text = TEXT | text | fields
  config = transformers.LlavaConfig(
    vision_config=transformers.CLIPVisionConfig(**(VISION | vision)),
    text_config=transformers.AutoConfig.for_model(kind, **text),
    image_token_index=IMAGE_ID,
    tie_word_embeddings=text.get("tie_word_embeddings", False),
  )
  # so that rows can be padded with a token that is not an image
  config.pad_token_id = 0
  return config


def llava(shape: str = "gqa", seed: int = 0, **fields: Any) -> Any:
  """A LlavaForConditionalGeneration with random weights, float32, eager."""
  config = llava_config(shape, **fields)
  config._attn_implementation = "eager"
  model = transformers.LlavaForConditionalGeneration(config)
  model = randomise(model, seed)
  model.tie_weights()
  return model


def randomise_lora(model: Any, seed: int = 1, size: float = 0.1) -> None:
  """Gives an adapter values that show: B is zero at first, A without a seed."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, p in sorted(model.named_parameters()):
      if "lora_A" in name or "lora_B" in name:
        p.copy_(size * torch.randn(p.shape, generator=generator))
