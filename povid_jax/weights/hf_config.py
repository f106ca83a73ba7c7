"""Our dimensions as the config.json of an llava-hf folder."""

from typing import Any

from povid_jax.errors import UserError
from povid_jax.models.config import DecoderConfig, VisionConfig
from povid_jax.weights.towers import ACTIVATIONS, NAMES, kind_of

_CLASSES = {
  "llama": "LlamaForCausalLM",
  "mistral": "MistralForCausalLM",
  "qwen2": "Qwen2ForCausalLM",
}


def to_text_config(config: DecoderConfig, vocab_size: int) -> dict[str, Any]:
  """`text_config` of an llava-hf folder, for transformers before and after 5.

  Raises:
    UserError: a mix of biases that no published decoder has.
  """
  if config.sliding_window is not None:
    kind = "mistral"
  elif config.attention_bias and not config.output_bias:
    kind = "qwen2"
  else:
    kind = "llama"
  if (kind == "mistral" and config.attention_bias) or (
    config.output_bias and not config.attention_bias
  ):
    raise UserError(
      "no decoder of transformers has these biases together with this sliding "
      "window; such a model cannot be exported to that layout"
    )
  scaling = config.rope_scaling
  rope = {"rope_type": "default"}
  if scaling is not None:
    rope = {k: v for k, v in scaling.items() if k != "type"}
    rope["rope_type"] = scaling.get("type", scaling.get("rope_type"))
  extra: dict[str, Any] = {}
  if kind == "llama":
    extra["attention_bias"] = config.attention_bias
  if kind == "mistral":
    extra["sliding_window"] = config.sliding_window
  return {
    "model_type": kind,
    # vLLM finds the decoder's class by it
    "architectures": [_CLASSES[kind]],
    "vocab_size": vocab_size,
    "hidden_size": config.hidden_size,
    "intermediate_size": config.intermediate_size,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads,
    "head_dim": config.head_dim,
    "hidden_act": "silu",
    "max_position_embeddings": config.max_positions,
    "rms_norm_eps": config.rms_norm_eps,
    "rope_theta": config.rope_theta,
    "rope_scaling": rope if scaling is not None else None,
    "rope_parameters": rope | {"rope_theta": config.rope_theta},
    "tie_word_embeddings": config.tie_embeddings,
    **extra,
  }


def to_vision_config(config: VisionConfig) -> dict[str, Any]:
  names = {v: k for k, v in ACTIVATIONS.items() if k != "gelu_new"}
  values = {theirs: getattr(config, ours) for ours, theirs in NAMES.items()}
  act = names.get(config.activation, config.activation)
  kind = kind_of(config)
  extra: dict[str, Any] = {"projection_dim": 768}
  if kind == "siglip_vision_model":
    extra = {"vision_use_head": False}
  return values | {"model_type": kind, "hidden_act": act} | extra
