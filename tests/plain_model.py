"""The model without any of our layout: whole sequences, one after the other.

Plain causal attention over [prefix, answer] of each answer, all logits of all
positions, a log-softmax over them. What the engine computes in another way must
come out the same.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from povid_jax.models.llava import IMAGE_TOKEN, Llava
from povid_jax.models.params import merge

Array = jax.Array


def _attend(q: Array, k: Array, v: Array, _: None) -> tuple[Array, None]:
  return jax.nn.dot_product_attention(q, k, v, is_causal=True), None


def logits(
  model: Llava, ids: Array, embeds: Array, *, adapter: bool = True
) -> Array:
  """float32[B, S, V] of right-padded sequences int32[B, S].

  Args:
    embeds: float[B, M, D], the image tokens in the order of the placeholders.
  """
  x = model.decoder.embed(ids, jnp.float32)
  for row in range(ids.shape[0]):  # a loop, so that no index trick is shared
    places = jnp.nonzero(
      ids[row] == IMAGE_TOKEN, size=embeds.shape[1], fill_value=ids.shape[1]
    )[0]
    x = x.at[row, places].set(embeds[row], mode="drop")
  positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
  hidden, _ = model.decoder(x, positions, _attend, adapter=adapter)
  return model.decoder.logits(hidden)


next_logits = jax.jit(
  lambda graph, params, ids, embeds: logits(merge(graph, params), ids, embeds),
  static_argnums=0,
)


@functools.partial(jax.jit, static_argnums=0)
def image_embeds(graph: object, params: dict, images: Array) -> Array:
  return merge(graph, params).encode_images(images)


def whole_sequences(
  batch: dict[str, np.ndarray], row: int
) -> list[tuple[np.ndarray, int]]:
  """(ids of [prefix, answer], prefix length) of each answer of a row."""
  start = int(batch["prefix_len"][row])
  prefix = batch["prefix_ids"][row, :start]
  return [
    (np.concatenate([prefix, ids]), start) for ids in batch["branch_ids"][row]
  ]
