"""Rotary position embedding in the half-split layout of HF's Llama."""

import math

import jax
import jax.numpy as jnp

from povid_jax.errors import UserError
from povid_jax.models.config import DecoderConfig

Array = jax.Array


def frequencies(config: DecoderConfig) -> Array:
  """float32[A / 2] radians per position, after the scaling of the config.

  Sources: RoFormer (arXiv 2104.09864), and for `llama3` the wavelength rule
  of the Llama 3.1 model card.
  """
  dim = config.head_dim
  exponent = jnp.arange(0, dim, 2, dtype=jnp.float32) / dim
  freq = 1.0 / (config.rope_theta**exponent)
  scaling = config.rope_scaling
  if scaling is None:
    return freq
  kind = scaling.get("type", scaling.get("rope_type"))
  if kind == "linear":
    return freq / scaling["factor"]
  if kind == "llama3":
    return _llama3(freq, scaling)
  raise UserError(f"rope_scaling: want type 'linear' or 'llama3', got {kind!r}")


def _llama3(freq: Array, scaling: dict) -> Array:
  """Long waves are stretched by `factor`, short ones kept, a ramp between."""
  low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
  turns = scaling["original_max_position_embeddings"] * freq / (2.0 * math.pi)
  kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
  return kept * freq + (1.0 - kept) * freq / scaling["factor"]


def rotary_table(
  config: DecoderConfig, positions_BT: Array
) -> tuple[Array, Array]:
  """cos and sin, float32[B, T, 1, A / 2]; bfloat16 cannot hold position 257."""
  angle = positions_BT[..., None].astype(jnp.float32) * frequencies(config)
  return jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]


def rotate(x_BTHA: Array, cos: Array, sin: Array) -> Array:
  """Turns the pairs (x[i], x[i + A/2]) by their angle."""
  first, second = jnp.split(x_BTHA.astype(jnp.float32), 2, axis=-1)
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(turned, axis=-1).astype(x_BTHA.dtype)
