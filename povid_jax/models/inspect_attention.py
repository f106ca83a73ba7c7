"""Where a response looks: attention weights, computed explicitly.

The model itself never keeps them (a flash kernel never has them). Here each
layer's weights are made in full and reduced to their mean over heads before the
scan stacks them: float32[B, H, T, T] lives for one layer at a time.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from povid_jax.models.attention import NEG, grouped
from povid_jax.models.llava import IMAGE_TOKEN, Llava

Array = jax.Array


class Looks(NamedTuple):
  """Attention of the states that write a response.

  Row c belongs to the state that predicts response token c: the last prefix
  token for c = 0, response token c - 1 after that. Columns are the P prefix
  tokens (padding gets 0), then the C response tokens.

  Attributes:
    hidden: float[B, C, D] the same states as `Llava.branches` gives.
    weights: float32[L, B, C, P + C] mean over heads; each row sums to 1.
    image_share: float32[L, B, H, C] the part of a row on image tokens.
  """

  hidden: Array
  weights: Array
  image_share: Array


def look(
  model: Llava,
  prefix_ids: Array,
  prefix_len: Array,
  response_ids: Array,
  images: Array,
  *,
  adapter: bool = True,
  positions: Array | None = None,
  position_start: Array | None = None,
) -> Looks:
  """Runs a prompt and one response per row, keeping attention weights.

  Args:
    prefix_ids: int32[B, P], right-padded.
    prefix_len: int32[B].
    response_ids: int32[B, C], right-padded; rows of padding are meaningless.
    images: as the model's layout packs them.
    positions, position_start: see `Llava.branches`.
  """
  prefix, length = prefix_ids.shape[1], response_ids.shape[1]
  x = jnp.concatenate(
    [
      model.embed_prefix(prefix_ids, model.encode_images(images)),
      model.decoder.embed(response_ids, model.dtype),
    ],
    axis=1,
  )
  order = _positions(prefix_len, prefix, length)
  allowed = _allowed(
    order, prefix_len, prefix, model.config.decoder.sliding_window
  )
  if positions is None or position_start is None:
    places = order
  else:
    after = position_start[:, None] + jnp.arange(length)
    after = jnp.broadcast_to(
      after[..., None], (*after.shape, positions.shape[-1])
    )
    places = jnp.concatenate([positions, after], axis=1)
  is_image = jnp.pad(prefix_ids == IMAGE_TOKEN, ((0, 0), (0, length)))
  rows = jnp.concatenate(
    [
      prefix_len[:, None] - 1,
      jnp.broadcast_to(
        prefix + jnp.arange(length - 1), (x.shape[0], length - 1)
      ),
    ],
    axis=1,
  )

  def attend(q: Array, k: Array, v: Array, _: None) -> tuple[Array, tuple]:
    out, weights_BHTS = _attention(q, k, v, allowed)
    writing = jnp.take_along_axis(weights_BHTS, rows[:, None, :, None], axis=2)
    share = jnp.where(is_image[:, None, None], writing, 0.0).sum(-1)
    return out, (writing.mean(axis=1), share)

  hidden, (weights, share) = model.decoder(x, places, attend, adapter=adapter)
  hidden = jnp.take_along_axis(hidden, rows[..., None], axis=1)
  return Looks(hidden, weights, share)


def _positions(prefix_len: Array, prefix: int, length: int) -> Array:
  """int32[B, P + C]: the response continues after the last real token."""
  head = jnp.broadcast_to(jnp.arange(prefix), (prefix_len.shape[0], prefix))
  tail = prefix_len[:, None] + jnp.arange(length)[None]
  return jnp.concatenate([head, tail], axis=1)


def _allowed(
  positions: Array, prefix_len: Array, prefix: int, window: int | None
) -> Array:
  """bool[B, T, S]: a query sees real tokens at its position and before."""
  index = jnp.arange(positions.shape[1])[None]
  real = (index < prefix_len[:, None]) | (index >= prefix)
  age = positions[:, :, None] - positions[:, None, :]
  seen = real[:, None, :] & (age >= 0)
  return seen if window is None else seen & (age < window)


def _attention(
  q_BTHA: Array, k_BTKA: Array, v_BTKA: Array, allowed: Array
) -> tuple[Array, Array]:
  """Attention with its weights, float32[B, H, T, S]."""
  q_BTKGA = grouped(q_BTHA, k_BTKA.shape[2])
  logits = jnp.einsum(
    "btkga,bska->bkgts",
    q_BTKGA,
    k_BTKA,
    preferred_element_type=jnp.float32,
  )
  logits = logits / math.sqrt(q_BTHA.shape[-1])
  logits = jnp.where(allowed[:, None, None], logits, NEG)
  weights = jax.nn.softmax(logits, axis=-1)
  out = jnp.einsum("bkgts,bska->btkga", weights.astype(v_BTKA.dtype), v_BTKA)
  batch, heads, groups, *rest = weights.shape
  return out.reshape(q_BTHA.shape), weights.reshape(batch, -1, *rest)
