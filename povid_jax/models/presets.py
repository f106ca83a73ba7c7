"""Named dimensions. Source: the models' own config.json."""

from povid_jax.errors import UserError
from povid_jax.models.config import DecoderConfig, LlavaConfig, VisionConfig

_LLAMA_7B = DecoderConfig()
_LLAMA_13B = DecoderConfig(
  hidden_size=5120,
  intermediate_size=13824,
  num_layers=40,
  num_heads=40,
  num_kv_heads=40,
)
_MISTRAL_7B = DecoderConfig(
  intermediate_size=14336,
  num_kv_heads=8,
  rope_theta=1_000_000.0,
  max_positions=32768,
)

PRESETS: dict[str, LlavaConfig] = {
  "llava-1.5-7b": LlavaConfig(decoder=_LLAMA_7B),
  "llava-1.5-13b": LlavaConfig(decoder=_LLAMA_13B),
  # Mistral-7B-Instruct-v0.2: theta 1e6 and no sliding window
  "llava-mistral-7b": LlavaConfig(decoder=_MISTRAL_7B),
  # for tests: every mechanism, almost no arithmetic
  "test": LlavaConfig(
    vision=VisionConfig(
      hidden_size=16,
      intermediate_size=32,
      num_layers=3,
      num_heads=2,
      image_size=28,
      patch_size=14,
    ),
    decoder=DecoderConfig(
      vocab_size=320,
      hidden_size=32,
      intermediate_size=48,
      num_layers=2,
      num_heads=4,
      num_kv_heads=2,
      head_dim=8,
    ),
  ),
  # the quickstart's model: LLaVA's architecture on drawn pictures
  "tiny": LlavaConfig(
    vision=VisionConfig(
      hidden_size=96,
      intermediate_size=256,
      num_layers=4,
      num_heads=4,
      image_size=60,
      patch_size=20,
    ),
    decoder=DecoderConfig(
      vocab_size=384,
      hidden_size=96,
      intermediate_size=256,
      num_layers=3,
      num_heads=4,
      num_kv_heads=4,
      head_dim=24,
    ),
  ),
}


def preset(name: str) -> LlavaConfig:
  """The dimensions of a named model; UserError lists the names there are."""
  if name not in PRESETS:
    raise UserError(f"no preset {name!r}; there are {sorted(PRESETS)}")
  return PRESETS[name]
