"""The linear layers of a decoder layer, once for all who count or name them."""

from typing import NamedTuple

from povid_jax.models.config import DecoderConfig


class Sizes(NamedTuple):
  """One linear layer: its place in the layer, and its sizes."""

  name: str  # "self_attn/q_proj"
  inputs: int
  outputs: int
  bias: bool


def decoder_linears(config: DecoderConfig) -> tuple[Sizes, ...]:
  """The seven that take LoRA, in the order of the forward pass."""
  dim, wide = config.hidden_size, config.intermediate_size
  queries = config.num_heads * config.head_dim
  keys = config.num_kv_heads * config.head_dim
  bias = config.attention_bias
  return (
    Sizes("self_attn/q_proj", dim, queries, bias),
    Sizes("self_attn/k_proj", dim, keys, bias),
    Sizes("self_attn/v_proj", dim, keys, bias),
    Sizes("self_attn/o_proj", queries, dim, config.output_bias),
    Sizes("mlp/gate_proj", dim, wide, False),
    Sizes("mlp/up_proj", dim, wide, False),
    Sizes("mlp/down_proj", wide, dim, False),
  )
