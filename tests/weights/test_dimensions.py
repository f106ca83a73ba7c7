"""config.json in and out, held against transformers' own classes."""

import json
from pathlib import Path

import pytest
import transformers

from povid_jax.errors import UserError
from povid_jax.models.config import DecoderConfig, VisionConfig
from povid_jax.models.presets import preset
from povid_jax.weights import dimensions, hf_config, towers

WHERE = Path("config.json")

# Published files, shortened to what decides the dimensions.
ORIGINAL_7B = {
  "model_type": "llava",
  "architectures": ["LlavaLlamaForCausalLM"],
  "hidden_act": "silu",
  "hidden_size": 4096,
  "image_aspect_ratio": "pad",
  "intermediate_size": 11008,
  "max_position_embeddings": 4096,
  "mm_hidden_size": 1024,
  "mm_projector_type": "mlp2x_gelu",
  "mm_use_im_patch_token": False,
  "mm_use_im_start_end": False,
  "mm_vision_select_feature": "patch",
  "mm_vision_select_layer": -2,
  "num_attention_heads": 32,
  "num_hidden_layers": 32,
  "num_key_value_heads": 32,
  "rms_norm_eps": 1e-05,
  "rope_scaling": None,
  "tie_word_embeddings": False,
  "vocab_size": 32000,
}
LLAVA_HF_7B = {
  "model_type": "llava",
  "image_token_index": 32000,
  "projector_hidden_act": "gelu",
  "text_config": {
    "_name_or_path": "lmsys/vicuna-7b-v1.5",
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "rms_norm_eps": 1e-05,
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
    "projection_dim": 768,
  },
  "vision_feature_layer": -2,
  "vision_feature_select_strategy": "default",
}


def _folder(path: Path, config: dict) -> Path:
  path.mkdir(exist_ok=True)
  (path / "config.json").write_text(json.dumps(config))
  return path


def test_the_published_original(tmp_path: Path):
  folder = _folder(tmp_path / "llava", ORIGINAL_7B)
  clip = _folder(
    tmp_path / "clip", {"model_type": "clip", **{
      "vision_config": LLAVA_HF_7B["vision_config"]}}
  )  # fmt: skip
  config, template = dimensions.from_original(folder, {}, clip)
  assert config == preset("llava-1.5-7b")
  assert template == "vicuna_v1"


def test_the_published_llava_hf(tmp_path: Path):
  folder = _folder(tmp_path / "hf", LLAVA_HF_7B)
  config, template = dimensions.from_llava_hf(folder)
  assert config.decoder.vocab_size == 32064
  assert config.vision == preset("llava-1.5-7b").vision
  decoder = config.decoder.to_dict() | {"vocab_size": 32000}
  assert decoder == preset("llava-1.5-7b").decoder.to_dict()
  assert (template, config.layout.mode) == ("vicuna_v1", "pad")


@pytest.mark.parametrize(
  ("changes", "manners"),
  [
    ({"image_aspect_ratio": "square"}, ("vicuna_v1", "resize")),
    ({"image_aspect_ratio": None}, ("vicuna_v1", "resize")),
    (
      {
        "model_type": "llava_mistral",
        "architectures": ["LlavaMistralForCausalLM"],
      },
      ("mistral_instruct", "pad"),
    ),
    (
      {"povid_jax": {"template": "short", "image_mode": "resize"}},
      ("short", "resize"),
    ),
  ],
)
def test_manners(tmp_path: Path, changes: dict, manners: tuple):
  folder = _folder(tmp_path / "x", ORIGINAL_7B | changes)
  clip = _folder(tmp_path / "clip", LLAVA_HF_7B["vision_config"])
  config, template = dimensions.from_original(folder, {}, clip)
  assert (template, config.layout.mode) == manners


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_silence_means_what_transformers_means(kind: str):
  theirs = transformers.AutoConfig.for_model(kind)
  ours = dimensions.decoder_from({}, kind, WHERE)
  window = theirs.sliding_window if kind == "mistral" else None
  want = DecoderConfig(
    vocab_size=theirs.vocab_size,
    hidden_size=theirs.hidden_size,
    intermediate_size=theirs.intermediate_size,
    num_layers=theirs.num_hidden_layers,
    num_heads=theirs.num_attention_heads,
    num_kv_heads=theirs.num_key_value_heads,
    head_dim=128,
    rope_theta=theirs.rope_parameters["rope_theta"],
    max_positions=theirs.max_position_embeddings,
    rms_norm_eps=theirs.rms_norm_eps,
    attention_bias=kind == "qwen2",
    tie_embeddings=theirs.tie_word_embeddings,
    sliding_window=window,
  )
  assert ours == want


def test_a_silent_vision_config():
  for theirs in (
    transformers.CLIPVisionConfig,
    transformers.SiglipVisionConfig,
  ):
    kind = theirs.model_type
    ours = towers.vision_from({}, -2, WHERE, kind=kind)
    written = hf_config.to_vision_config(ours)
    silent = theirs().to_dict() | {"projection_dim": 768}
    assert written.items() <= (silent | {"vision_use_head": False}).items()
  for name in ("Llava", "LlavaNext", "LlavaOnevision"):
    whole = getattr(transformers, f"{name}Config")()
    family = dimensions.FAMILIES[whole.model_type]
    filled = whole.vision_config.to_dict()
    assert filled["model_type"] == family.tower
    assert whole.text_config.model_type == family.text
    assert whole.vision_feature_layer == family.feature_layer
    assert (
      whole.vision_feature_select_strategy
      == towers.TOWERS[family.tower].strategy
    )
    short, whole = (
      towers.vision_from(values, -2, WHERE, kind=family.tower)
      for values in (family.vision, filled)
    )
    assert short == whole


_LLAMA3 = dict(
  type="llama3",
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=8192,
)


@pytest.mark.parametrize(
  "decoder",
  [
    DecoderConfig(),
    DecoderConfig(num_kv_heads=8, head_dim=64, tie_embeddings=True),
    DecoderConfig(rope_scaling={"type": "linear", "factor": 2.0}),
    DecoderConfig(rope_scaling=_LLAMA3, rope_theta=5e5),
    DecoderConfig(attention_bias=True, output_bias=True),
    DecoderConfig(attention_bias=True),
    DecoderConfig(sliding_window=4096, num_kv_heads=8),
  ],
)
def test_out_and_in_again(decoder: DecoderConfig):
  text = hf_config.to_text_config(decoder, decoder.vocab_size)
  back = dimensions.decoder_from(text, text["model_type"], WHERE)
  assert back == decoder
  # and by way of transformers, which renames and fills fields
  theirs = transformers.AutoConfig.for_model(
    text.pop("model_type"), **text
  ).to_dict()
  assert dimensions.decoder_from(theirs, theirs["model_type"], WHERE) == decoder


def test_old_and_new_rope_fields():
  old = {"rope_theta": 5e5, "rope_scaling": _LLAMA3}
  new = {"rope_parameters": {"rope_theta": 5e5, **_LLAMA3}}
  assert dimensions.decoder_from(
    old, "llama", WHERE
  ) == dimensions.decoder_from(new, "llama", WHERE)


def test_activation_names():
  config = VisionConfig(activation="gelu_tanh")
  written = hf_config.to_vision_config(config)
  assert written["hidden_act"] == "gelu_pytorch_tanh"
  assert towers.vision_from(written, -2, WHERE) == config


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"vision_feature_select_strategy": "full"}, "'full', want 'default'"),
    ({"vision_feature_layer": [-2, -5]}, r"\[-2, -5\], want one integer"),
    ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu'"),
    ({"text_config": {"model_type": "gemma"}}, "model_type is 'gemma'"),
    ({"text_config": {"mlp_bias": True}}, "mlp_bias is True"),
    (
      {"text_config": {"rope_scaling": {"type": "yarn"}}},
      "the rope type is 'yarn', want 'default' or 'linear' or 'llama3'",
    ),
    (
      {"text_config": {"rope_scaling": {"type": "linear"}}},
      "rope scaling 'linear' without factor",
    ),
  ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, changes, message):
  folder = _folder(tmp_path / "hf", LLAVA_HF_7B | changes)
  with pytest.raises(UserError, match=f"config.json: .*{message}"):
    dimensions.from_llava_hf(folder)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"hidden_size": "x"}, "hidden_size is 'x', want a whole number from 1"),
    ({"num_attention_heads": 0}, "num_attention_heads is 0, want a whole"),
    ({"num_hidden_layers": 10**9}, "want a whole number from 1 to 10000"),
    ({"num_key_value_heads": 3}, "32 heads, 3 num_key_value_heads"),
    ({"rms_norm_eps": "a"}, "rms_norm_eps is 'a', want a number above 0"),
    ({"rope_theta": "x"}, "rope_theta is 'x', want a number"),
    ({"rope_scaling": "linear"}, "rope_scaling is 'linear', want an object"),
    (
      {"rope_scaling": {"type": "linear", "factor": "a"}},
      "factor is 'a', want a number",
    ),
    (
      {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
      "the rope field full_attention is",
    ),
    (
      {"rope_scaling": {"type": "default", "long_factor": [1.0]}},
      "the rope field long_factor is",
    ),
    (
      {"rope_scaling": {"type": "mrope", "rope_type": "default"}},
      "different values .'mrope', 'default'",
    ),
    (
      {
        "rope_scaling": {"type": "linear", "factor": 2},
        "rope_parameters": {"rope_type": "linear", "factor": 4},
      },
      "have different values .factor.",
    ),
    (
      {"rope_scaling": _LLAMA3 | {"low_freq_factor": 4.0}},
      "low_freq_factor is 4.0 and high_freq_factor 4.0",
    ),
    (
      {"rope_parameters": {"partial_rotary_factor": 0.5}},
      "partial_rotary_factor is 0.5, want 1",
    ),
    ({"mm_vision_select_layer": 25}, "is 25, want one integer from -25 to 24"),
    ({"mm_vision_select_layer": [-2, -5]}, "want one integer from -25 to 24"),
    ({"image_aspect_ratio": "anyres"}, "mm_patch_merge_type is 'flat'"),
    ({"mm_resampler_type": "masked_drop"}, "resampler_type is 'masked_drop'"),
    ({"model_type": "llava_gemma"}, "model_type is 'llava_gemma', want"),
    ({"model_type": None}, "model_type is None, want 'llava'"),
    (
      {"architectures": ["LlavaQwenMoeForCausalLM"]},
      r"architectures is 'LlavaQwenMoeForCausalLM', want",
    ),
  ],
)
def test_what_a_config_must_not_say(
  tmp_path: Path, changes: dict, message: str
):
  folder = _folder(tmp_path / "llava", ORIGINAL_7B | changes)
  clip = _folder(tmp_path / "clip", LLAVA_HF_7B["vision_config"])
  with pytest.raises(UserError, match=message) as caught:
    dimensions.from_original(folder, {}, clip)
  assert str(caught.value).startswith(f"{folder / 'config.json'}: ")


def test_what_names_itself_twice_must_agree(tmp_path: Path):
  """A model_type that is known, with a class that is not."""
  for changes in (
    {"model_type": "llava_llama", "architectures": ["LlavaOtherForCausalLM"]},
    {"model_type": "llava_mistral"},  # and Llama's class
    {"model_type": "llava", "architectures": ["LlavaPhiForCausalLM"]},
  ):
    folder = _folder(tmp_path / "x", ORIGINAL_7B | changes)
    with pytest.raises(UserError, match="architectures is 'Llava"):
      dimensions.from_original(folder, {}, None)


def test_a_tower_other_than_the_named(tmp_path: Path):
  named = {"mm_vision_tower": "openai/clip-vit-large-patch14-336"}
  folder = _folder(tmp_path / "x", ORIGINAL_7B | named)
  small = LLAVA_HF_7B["vision_config"] | {"image_size": 224}
  with pytest.raises(UserError, match="patch14-336, and --vision-tower=.*224"):
    dimensions.from_original(folder, {}, _folder(tmp_path / "clip", small))


def test_a_flag_answers_for_the_pictures(tmp_path: Path):
  folder = _folder(tmp_path / "x", ORIGINAL_7B | {"image_aspect_ratio": "odd"})
  clip = _folder(tmp_path / "clip", LLAVA_HF_7B["vision_config"])
  with pytest.raises(UserError, match="image_aspect_ratio is 'odd'"):
    dimensions.from_original(folder, {}, clip)
  for mode in ("pad", "resize"):
    config, _ = dimensions.from_original(folder, {}, clip, mode)
    assert config.layout.mode == mode
