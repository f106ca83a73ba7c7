"""Named dimensions. Source: the models' own config.json."""

import dataclasses

from povid_jax.errors import UserError
from povid_jax.models.config import (
  DecoderConfig,
  LayoutConfig,
  LlavaConfig,
  QwenVisionConfig,
  VisionConfig,
)

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
_QWEN_3B = DecoderConfig(
  vocab_size=151936,
  hidden_size=2048,
  intermediate_size=11008,
  num_layers=36,
  num_heads=16,
  num_kv_heads=2,
  rope_theta=1_000_000.0,
  max_positions=128000,
  rms_norm_eps=1e-6,
  attention_bias=True,
  tie_embeddings=True,
  mrope_sections=(16, 24, 24),
)
_QWEN_7B = dataclasses.replace(
  _QWEN_3B,
  vocab_size=152064,
  hidden_size=3584,
  intermediate_size=18944,
  num_layers=28,
  num_heads=28,
  num_kv_heads=4,
  tie_embeddings=False,
)


def _qwen(decoder: DecoderConfig) -> LlavaConfig:
  return LlavaConfig(
    vision=QwenVisionConfig(), decoder=decoder, layout=LayoutConfig("native")
  )


# LLaVA-1.6-34B: Nous-Hermes-2-Yi-34B
_YI_34B = DecoderConfig(
  vocab_size=64064,
  hidden_size=7168,
  intermediate_size=20480,
  num_layers=60,
  num_heads=56,
  num_kv_heads=8,
  rope_theta=5_000_000.0,
)
_LLAMA3_8B = DecoderConfig(
  vocab_size=128320,
  intermediate_size=14336,
  num_kv_heads=8,
  rope_theta=500_000.0,
  max_positions=8192,
)


def _qwen2(width: int, wide: int, layers: int, heads: int, kv: int, head: int):
  return DecoderConfig(
    vocab_size=152000 if width == 896 else 152128,
    hidden_size=width,
    intermediate_size=wide,
    num_layers=layers,
    num_heads=heads,
    num_kv_heads=kv,
    head_dim=head,
    rope_theta=1_000_000.0,
    max_positions=32768,
    rms_norm_eps=1e-6,
    attention_bias=True,
    tie_embeddings=width == 896,
  )


_NEXT = LayoutConfig(
  "anyres",
  pinpoints=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)),
)
_SO400M = VisionConfig(
  hidden_size=1152,
  intermediate_size=4304,
  num_layers=26,
  num_heads=16,
  image_size=384,
  patch_size=14,
  feature_layer=-1,
  layer_norm_eps=1e-6,
  activation="gelu_tanh",
  class_token=False,
  pre_norm=False,
  patch_bias=True,
  mean=(0.5, 0.5, 0.5),
  std=(0.5, 0.5, 0.5),
)
_STEPS = range(384, 2305, 384)
_ONEVISION = LayoutConfig(
  "anyres",
  pinpoints=tuple((h, w) for h in _STEPS for w in _STEPS),
  max_tiles=9,
  several="square",
)
_next = lambda decoder: LlavaConfig(decoder=decoder, layout=_NEXT)
_onevision = lambda decoder: LlavaConfig(
  vision=_SO400M, decoder=decoder, layout=_ONEVISION
)

# for tests: every mechanism, almost no arithmetic
_TEST = LlavaConfig(
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
)
_EDGES = range(28, 85, 28)
_TESTS = {
  "test": _TEST,
  "test-next": dataclasses.replace(
    _TEST,
    layout=LayoutConfig(
      "anyres", pinpoints=((28, 56), (56, 28), (56, 56), (84, 28), (28, 84))
    ),
  ),
  "test-onevision": LlavaConfig(
    vision=dataclasses.replace(
      _SO400M,
      hidden_size=16,
      intermediate_size=32,
      num_layers=3,
      num_heads=2,
      image_size=28,
    ),
    decoder=dataclasses.replace(
      _TEST.decoder, attention_bias=True, tie_embeddings=True
    ),
    layout=LayoutConfig(
      "anyres",
      pinpoints=tuple((h, w) for h in _EDGES for w in _EDGES),
      max_tiles=3,
      several="square",
    ),
  ),
  # windows of 2 x 2 tokens of 14 pixels; the layer in the middle sees all
  "test-qwen": LlavaConfig(
    vision=QwenVisionConfig(
      hidden_size=32,
      intermediate_size=40,
      num_layers=3,
      num_heads=4,
      patch_size=7,
      window_size=28,
      full_layers=(1,),
    ),
    decoder=dataclasses.replace(
      _TEST.decoder,
      hidden_size=48,
      head_dim=12,
      rms_norm_eps=1e-6,
      attention_bias=True,
      mrope_sections=(1, 2, 3),
    ),
    layout=LayoutConfig("native", min_pixels=28 * 28, max_pixels=120 * 120),
  ),
}

PRESETS: dict[str, LlavaConfig] = {
  "llava-1.5-7b": LlavaConfig(decoder=_LLAMA_7B),
  "llava-1.5-13b": LlavaConfig(decoder=_LLAMA_13B),
  # Mistral-7B-Instruct-v0.2: theta 1e6 and no sliding window
  "llava-mistral-7b": LlavaConfig(decoder=_MISTRAL_7B),
  "qwen2.5-vl-3b": _qwen(_QWEN_3B),
  "qwen2.5-vl-7b": _qwen(_QWEN_7B),
  "llava-next-7b": _next(_LLAMA_7B),
  "llava-next-13b": _next(_LLAMA_13B),
  "llava-next-mistral-7b": _next(_MISTRAL_7B),
  "llava-next-llama3-8b": _next(_LLAMA3_8B),
  "llava-next-34b": _next(_YI_34B),
  "llava-onevision-0.5b": _onevision(_qwen2(896, 4864, 24, 14, 2, 64)),
  "llava-onevision-7b": _onevision(_qwen2(3584, 18944, 28, 28, 4, 128)),
  "llava-onevision-72b": _onevision(_qwen2(8192, 29568, 80, 64, 8, 128)),
  **_TESTS,
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
  """The dimensions of a named model; UserError lists the known names."""
  if name not in PRESETS:
    raise UserError(f"no preset {name!r}; there are {sorted(PRESETS)}")
  return PRESETS[name]
