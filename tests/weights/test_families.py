"""Folders of LLaVA-NeXT and LLaVA-OneVision: what they say, in and out."""

import json
from pathlib import Path

import pytest

from povid_jax.errors import UserError
from povid_jax.models.config import LayoutConfig, VisionConfig
from povid_jax.weights import dimensions, layouts
from povid_jax.weights.fields import Fields
from povid_jax.weights.safetensors_file import Tensor

# Published files, shortened to what decides the dimensions.
NEXT_MISTRAL: Fields = {
  "model_type": "llava_next",
  "architectures": ["LlavaNextForConditionalGeneration"],
  "image_grid_pinpoints": [
    [336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
  "image_token_index": 32000,
  "projector_hidden_act": "gelu",
  "text_config": {
    "model_type": "mistral",
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "vocab_size": 32064,
  },
  "vision_config": {
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
  },
  "vision_feature_layer": -2,
  "vision_feature_select_strategy": "default",
}  # fmt: skip
ONEVISION_HALF_B: Fields = {
  "model_type": "llava_onevision",
  "architectures": ["LlavaOnevisionForConditionalGeneration"],
  "image_token_index": 151646,
  "text_config": {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "vocab_size": 152000,
  },
  "tie_word_embeddings": False,
  "vision_config": {
    "hidden_size": 1152,
    "image_size": 384,
    "intermediate_size": 4304,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 26,
    "patch_size": 14,
    "vision_use_head": False,
  },
  "vision_aspect_ratio": "anyres_max_9",
  "vision_feature_layer": -1,
  "vision_feature_select_strategy": "full",
}
# lmms-lab's own files of the same 0.5B
ORIGINAL_HALF_B: Fields = {
  "model_type": "llava",
  "architectures": ["LlavaQwenForCausalLM"],
  "hidden_size": 896,
  "image_aspect_ratio": "anyres_max_9",
  "image_grid_pinpoints": "(1x1),...,(6x6)",
  "intermediate_size": 4864,
  "max_position_embeddings": 32768,
  "mm_patch_merge_type": "spatial_unpad",
  "mm_projector_type": "mlp2x_gelu",
  "mm_vision_select_feature": "patch",
  "mm_vision_select_layer": -2,
  "mm_vision_tower": "google/siglip-so400m-patch14-384",
  "num_attention_heads": 14,
  "num_hidden_layers": 24,
  "num_key_value_heads": 2,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "tie_word_embeddings": True,
  "vocab_size": 152000,
}
SO400M = VisionConfig(
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
ONEVISION_LAYOUT = LayoutConfig(
  "anyres",
  pinpoints=layouts.ONEVISION_PINPOINTS,
  max_tiles=9,
  several="square",
)


def _folder(path: Path, config: Fields, **files: Fields) -> Path:
  path.mkdir(exist_ok=True)
  for name, values in {"config": config, **files}.items():
    (path / f"{name}.json").write_text(json.dumps(values))
  return path


def test_the_published_next(tmp_path: Path):
  folder = _folder(tmp_path / "next", NEXT_MISTRAL)
  config, template = dimensions.from_llava_hf(folder)
  assert template == "mistral_instruct"
  assert config.vision == VisionConfig()
  assert config.layout == LayoutConfig(
    "anyres", pinpoints=layouts.NEXT_PINPOINTS
  )
  decoder = config.decoder
  assert decoder.rope_theta == 1e6 and decoder.sliding_window is None
  assert decoder.num_kv_heads == 8 and decoder.vocab_size == 32064


def test_the_published_onevision(tmp_path: Path):
  folder = _folder(tmp_path / "onevision", ONEVISION_HALF_B)
  config, template = dimensions.from_llava_hf(folder)
  assert template == "qwen_1_5"
  assert config.vision == SO400M
  assert config.vision.num_tokens == config.image_tokens == 729
  assert config.vision.num_used_layers == 26
  assert config.layout == ONEVISION_LAYOUT
  # the inner field ties, whatever the outer one says
  assert config.decoder.tie_embeddings
  assert config.decoder.attention_bias and not config.decoder.output_bias
  assert config.decoder.rms_norm_eps == 1e-6
  assert config.decoder.sliding_window is None


def _tower(layers: int, clip: bool) -> dict[str, Tensor]:
  """Shapes of a tower inside an original checkpoint."""
  size = (1024, 4096, 577) if clip else (1152, 4304, 729)
  hidden, wide, positions = size
  shapes = {
    "embeddings.patch_embedding.weight": (hidden, 3, 14, 14),
    "embeddings.position_embedding.weight": (positions, hidden),
    **{
      f"encoder.layers.{i}.mlp.fc1.weight": (wide, hidden)
      for i in range(layers)
    },
  }
  if clip:
    shapes["embeddings.class_embedding"] = (hidden,)
  start = "model.vision_tower.vision_tower.vision_model."

  class _Shape:
    def __init__(self, shape: tuple[int, ...]):
      self.shape = shape

  return {start + name: _Shape(shape) for name, shape in shapes.items()}  # type: ignore[misc]


def test_the_published_original_onevision(tmp_path: Path):
  """-2 is what it says and not what its code does: 26 layers, the last used."""
  folder = _folder(tmp_path / "lmms-lab", ORIGINAL_HALF_B)
  made = dimensions.from_original(folder, _tower(26, clip=False), None)
  theirs = _folder(tmp_path / "hf", ONEVISION_HALF_B)
  assert made == dimensions.from_llava_hf(theirs)


def test_a_siglip_folder_has_one_layer_more(tmp_path: Path):
  folder = _folder(tmp_path / "lmms-lab", ORIGINAL_HALF_B)
  tower = ONEVISION_HALF_B["vision_config"] | {"num_hidden_layers": 27}
  siglip = _folder(
    tmp_path / "siglip", {"model_type": "siglip", "vision_config": tower}
  )
  tensors = _tower(26, clip=False)
  config, _ = dimensions.from_original(folder, tensors, siglip)
  assert config.vision == SO400M
  clip = _folder(tmp_path / "clip", NEXT_MISTRAL["vision_config"])
  with pytest.raises(UserError, match="model_type is 'clip_vision_model'"):
    dimensions.from_original(folder, tensors, clip)


_LLAMA_3 = {"model_type": "llama", "vocab_size": 128320}
_YI = {"model_type": "llama", "vocab_size": 64064}
_QWEN = {"model_type": "qwen2", "vocab_size": 152064}


@pytest.mark.parametrize(
  ("text", "template"),
  [
    ({"model_type": "llama", "vocab_size": 32064}, "vicuna_v1"),
    (_LLAMA_3, "llava_llama_3"),
    (_YI, "chatml_direct"),
    (_QWEN, "qwen_1_5"),
  ],
)
def test_templates(tmp_path: Path, text: Fields, template: str):
  folder = _folder(tmp_path / "next", NEXT_MISTRAL | {"text_config": text})
  assert dimensions.from_llava_hf(folder).template == template


def test_original_pinpoints(tmp_path: Path):
  """Lists, and both ways of writing them down."""
  config = NEXT_MISTRAL["text_config"] | {
    "model_type": "llava_mistral",
    "mm_projector_type": "mlp2x_gelu",
    "image_aspect_ratio": "anyres",
    "mm_patch_merge_type": "spatial_unpad",
  }
  pinpoints = NEXT_MISTRAL["image_grid_pinpoints"]
  for given, want in (
    (pinpoints, layouts.NEXT_PINPOINTS),
    (str(pinpoints), layouts.NEXT_PINPOINTS),
    ("(1x1),...,(1x3)", ((336, 336), (336, 672), (336, 1008))),
  ):
    folder = _folder(tmp_path / "x", config | {"image_grid_pinpoints": given})
    made, template = dimensions.from_original(folder, _tower(24, True), None)
    assert made.layout == LayoutConfig("anyres", pinpoints=want)
    assert made.vision == VisionConfig() and template == "mistral_instruct"


def test_the_processor_decides_the_mean(tmp_path: Path):
  folder = _folder(
    tmp_path / "x",
    ONEVISION_HALF_B,
    preprocessor_config={"image_mean": [0.4, 0.5, 0.6], "image_std": None},
  )
  config, _ = dimensions.from_llava_hf(folder)
  assert config.square_tower.mean == (0.4, 0.5, 0.6)
  assert config.square_tower.std == (0.5, 0.5, 0.5)
  folder = _folder(
    tmp_path / "nested",
    NEXT_MISTRAL,
    processor_config={"image_processor": {"image_std": [0.1, 0.2, 0.3]}},
  )
  config, _ = dimensions.from_llava_hf(folder)
  assert config.square_tower.std == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
  ("base", "changes", "message"),
  [
    (
      NEXT_MISTRAL,
      {"model_type": "llava_next_video"},
      "model_type is 'llava_n",
    ),
    (
      NEXT_MISTRAL,
      {"vision_feature_select_strategy": "full"},
      "want 'default'",
    ),
    (
      NEXT_MISTRAL,
      {"vision_config": ONEVISION_HALF_B["vision_config"]},
      "vision_config.model_type is 'siglip_vision_model'",
    ),
    (NEXT_MISTRAL, {"image_grid_pinpoints": [1, 2]}, "want pairs of pixels"),
    (NEXT_MISTRAL, {"image_grid_pinpoints": [[336, 500]]}, "multiples of"),
    (
      ONEVISION_HALF_B,
      {"vision_feature_select_strategy": "default"},
      "want 'full'",
    ),
    (ONEVISION_HALF_B, {"vision_aspect_ratio": "anyres"}, "anyres_max_9"),
    (ONEVISION_HALF_B, {"vision_aspect_ratio": "pad"}, "vision_aspect_ratio"),
  ],
)
def test_what_is_not_computed_is_refused(
  tmp_path: Path, base: Fields, changes: Fields, message: str
):
  folder = _folder(tmp_path / "hf", base | changes)
  with pytest.raises(UserError, match=message):
    dimensions.from_llava_hf(folder)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"image_mean": [0.5]}, "image_mean is .*, want three numbers"),
    ({"resample": 2}, "resample is 2, want 3"),
    ({"image_grid_pinpoints": [[336, 672]]}, "differs? from those"),
    ({"size": {"shortest_edge": 224}}, "want 336 pixels"),
  ],
)
def test_a_processor_that_makes_other_pixels(
  tmp_path: Path, fields: Fields, message: str
):
  folder = _folder(tmp_path / "x", NEXT_MISTRAL, preprocessor_config=fields)
  with pytest.raises(UserError, match=f"preprocessor_config.json: .*{message}"):
    dimensions.from_llava_hf(folder)


def test_a_mistral_without_theta(tmp_path: Path, capsys):
  text = dict(NEXT_MISTRAL["text_config"])
  del text["rope_theta"]
  folder = _folder(tmp_path / "x", NEXT_MISTRAL | {"text_config": text})
  config, _ = dimensions.from_llava_hf(folder)
  assert config.decoder.rope_theta == 1e4
  assert "no rope_theta" in capsys.readouterr().err
