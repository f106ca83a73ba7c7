"""The model without any of our layout: whole sequences, one after the other.

Plain causal attention over [prefix, answer] of each answer, all logits of all
positions, a log-softmax over them. What the engine computes in another way must
come out the same.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from povid_jax.data.batch import Batch
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


def score(
  model: Llava,
  batch: Batch,
  answer: int,
  embeds: Array,
  targets: np.ndarray | Array | None = None,
  *,
  adapter: bool = True,
) -> Array:
  """Summed log-probs float32[B] of one answer of each row.

  Args:
    batch: as data.batches makes it.
    answer: index of the branch.
    embeds: image tokens, of the clean or of the distorted pictures.
    targets: int32[B, C] tokens to score in place of the answer's own, which
      stay what the model reads.
  """
  every = predictions(model, batch, answer, embeds, adapter=adapter)
  return pick(every, batch, answer, targets)


def pick(
  every: Array,
  batch: Batch,
  answer: int,
  targets: np.ndarray | Array | None = None,
) -> Array:
  """Summed log-probs float32[B] from logits float32[B, C, V]; see `score`."""
  own = batch.branch_ids[:, answer]
  targets = own if targets is None else targets
  picked = jnp.take_along_axis(
    jax.nn.log_softmax(every, axis=-1), jnp.asarray(targets)[..., None], axis=-1
  )[..., 0]
  if batch.branch_weight is not None:
    picked = picked * batch.branch_weight[:, answer]
  return jnp.where(batch.loss_mask[:, answer], picked, 0.0).sum(-1)


def predictions(
  model: Llava,
  batch: Batch,
  answer: int,
  embeds: Array,
  *,
  adapter: bool = True,
) -> Array:
  """float32[B, C, V] logits for each token of one answer of each row."""
  starts = [int(n) for n in batch.prefix_len]
  answers = batch.branch_ids[:, answer]
  rows = [
    np.concatenate([prefix[:start], ids])
    for start, prefix, ids in zip(
      starts, batch.prefix_ids, answers, strict=True
    )
  ]
  whole = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for row, ids in zip(whole, rows, strict=True):
    row[: len(ids)] = ids
  every = logits(model, jnp.asarray(whole), embeds, adapter=adapter)
  length = answers.shape[1]
  return jnp.stack(
    [every[i, start - 1 : start - 1 + length] for i, start in enumerate(starts)]
  )
