"""Rotary position embedding in the half-split layout of HF's Llama."""

import math

import jax
import jax.numpy as jnp
import numpy as np

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
  config: DecoderConfig, positions: Array
) -> tuple[Array, Array]:
  """cos and sin, float32[B, T, 1, A / 2]; bfloat16 cannot hold position 257.

  Args:
    positions: int[B, T]; or, where the config has mrope_sections, int[B, T, 3]
      (time, row, column), by each of which its own section turns (arXiv
      2409.12191).
  """
  where = positions[..., None]
  if positions.ndim == 3:
    axis = np.repeat(np.arange(3), config.mrope_sections)
    where = positions[..., axis]
  angle = where.astype(jnp.float32) * frequencies(config)[None, None]
  return _table(angle[:, :, None])


def axial_table(
  positions: Array, head_dim: int, theta: float = 10000.0
) -> tuple[Array, Array]:
  """cos and sin of rows and columns, float32[B, T, 1, A / 2].

  The first half of the angles turns by the row, the second by the column.

  Args:
    positions: int[B, T, 2].
    head_dim: A, a multiple of 4.
  """
  exponent = jnp.arange(0, head_dim // 2, 2, dtype=jnp.float32)
  freq = 1.0 / theta ** (exponent / (head_dim // 2))
  where = positions[..., None].astype(jnp.float32)
  angle = where * freq[None, None, None]
  return _table(angle.reshape(*angle.shape[:2], 1, -1))


def _table(angle: Array) -> tuple[Array, Array]:
  # Without the barrier the compiler may compute the table anew wherever layers
  # outside a loop use it: for each head, and in each layer.
  return jax.lax.optimization_barrier((jnp.cos(angle), jnp.sin(angle)))


def rotate(x_BTHA: Array, cos: Array, sin: Array) -> Array:
  """Turns the pairs (x[i], x[i + A/2]) by their angle."""
  first, second = jnp.split(x_BTHA.astype(jnp.float32), 2, axis=-1)
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(turned, axis=-1).astype(x_BTHA.dtype)
