"""Log-probabilities of given tokens, without ever holding [B, S, V]."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from povid_jax.models import partition

Array = jax.Array
Head = Callable[[Array], Array]  # float[..., D] -> float32[..., V]


def _in_chunks(
  fn: Callable[[Array, Array], Array], hidden: Array, extra: Array, rows: int
) -> Array:
  """Applies fn to chunks of rows; recomputed, not kept, for gradients.

  A chunk takes some tokens of every example. The batch is cut over devices:
  chunks of whole examples would belong to one device each, and all the others
  would have to fetch them.

  Args:
    fn: float[B, r, D] and int32[B, r, J] to [B, r, ...].
    rows: of a device's part of a chunk, whose logits take rows * V * 4 bytes.
  """
  batch, *inner = hidden.shape[:-1]
  total = math.prod(inner)
  size = max(1, rows // partition.batch_of_a_device(batch))
  chunks = -(-total // size)
  size = -(-total // chunks)  # no more padding than needed

  def cut(x: Array) -> Array:
    x = x.reshape(batch, total, x.shape[-1])
    x = jnp.pad(x, ((0, 0), (0, chunks * size - total), (0, 0)))
    x = x.reshape(batch, chunks, size, x.shape[-1])
    return jnp.moveaxis(x, 1, 0)

  def one(pair: tuple[Array, Array]) -> Array:
    hidden, extra = (partition.by_batch(x) for x in pair)
    return partition.by_batch(fn(hidden, extra))

  out = jax.lax.map(
    jax.checkpoint(one, prevent_cse=False), (cut(hidden), cut(extra))
  )
  out = jnp.moveaxis(out, 0, 1)  # [B, chunks, r, ...]
  out = out.reshape(batch, chunks * size, *out.shape[3:])[:, :total]
  return out.reshape(batch, *inner, *out.shape[2:])


def token_logps(
  head: Head, hidden: Array, targets: Array, chunk: int = 256
) -> Array:
  """Log-softmax of the head's logits at the targets, in float32.

  Args:
    head: maps hidden states to float32 logits.
    hidden: float[B, ..., D] states, each predicting one position.
    targets: int32[B, ..., J] token ids; J different tokens per position.
    chunk: rows whose logits a device holds at one time (but at least one of
      each of its examples).

  Returns:
    float32[B, ..., J] log-probabilities in nats.
  """

  def score(h: Array, ids: Array) -> Array:
    logits = head(h)
    picked = jnp.take_along_axis(logits, ids, axis=-1)
    return picked - jax.nn.logsumexp(logits, axis=-1, keepdims=True)

  return _in_chunks(score, hidden, targets, chunk)


def argmax_tokens(
  head: Head,
  hidden: Array,
  exclude: Array | None = None,
  chunk: int = 256,
) -> Array:
  """The model's most likely token at each position.

  Args:
    head: maps hidden states to float32 logits.
    hidden: float[B, ..., D].
    exclude: int32[B, ...] a token that must not be chosen (the released code's
      earlier rule takes the runner-up where the argmax is the gold token).
    chunk: see `token_logps`.

  Returns:
    int32[B, ...] token ids.
  """
  barred = jnp.full((*hidden.shape[:-1], 1), -1, jnp.int32)
  if exclude is not None:
    barred = exclude[..., None].astype(jnp.int32)

  def choose(h: Array, ids: Array) -> Array:
    logits = head(h)
    token = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    logits = jnp.where(token == ids, -jnp.inf, logits)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)

  return _in_chunks(choose, hidden, barred, chunk)
