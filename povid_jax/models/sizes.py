"""The linear layers of one layer, once for all who count or name them."""

import re
from typing import NamedTuple

from povid_jax.models.config import (
  DecoderConfig,
  QwenVisionConfig,
  VisionConfig,
)


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


def vit_linears(config: VisionConfig) -> tuple[Sizes, ...]:
  """Those of a CLIP or SigLIP tower."""
  dim, wide = config.hidden_size, config.intermediate_size
  return (
    *(
      Sizes(f"self_attn/{name}", dim, dim, True)
      for name in ("q_proj", "k_proj", "v_proj", "out_proj")
    ),
    Sizes("mlp/fc1", dim, wide, True),
    Sizes("mlp/fc2", wide, dim, True),
  )


def qwen_vision_linears(config: QwenVisionConfig) -> tuple[Sizes, ...]:
  """Those of the tower of Qwen2.5-VL."""
  dim, wide = config.hidden_size, config.intermediate_size
  return (
    Sizes("attn/qkv", dim, 3 * dim, True),
    Sizes("attn/proj", dim, dim, True),
    Sizes("mlp/gate_proj", dim, wide, True),
    Sizes("mlp/up_proj", dim, wide, True),
    Sizes("mlp/down_proj", wide, dim, True),
  )


class TowerFlops(NamedTuple):
  """FLOPs of a vision tower's forward pass, by kind of product."""

  patches: float  # the first layer, over pixels
  linears: float
  attention: float


def low_rank(
  linears: tuple[Sizes, ...], folder: str, rank: int, targets: str
) -> int:
  """Weights of LoRA's two matrices on those linear layers of `folder` whose
  path `targets` (a regex) matches."""
  return sum(
    rank * (linear.inputs + linear.outputs)
    for linear in linears
    if re.search(targets, f"{folder}/{linear.name}")
  )


def weights(linears: tuple[Sizes, ...]) -> int:
  """Their weights, without biases: a token costs two FLOPs for each."""
  return sum(linear.inputs * linear.outputs for linear in linears)
