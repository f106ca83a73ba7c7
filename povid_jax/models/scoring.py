"""Log-probabilities of given tokens, without ever holding [B, S, V]."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array
Head = Callable[[Array], Array]  # float[..., D] -> float32[..., V]


def _in_chunks(
  fn: Callable[[Array, Array], Array], hidden: Array, extra: Array, rows: int
) -> Array:
  """Applies fn to `rows` rows at a time; recomputed, not kept, for gradients.

  Peak memory is that of one chunk's logits: rows * V * 4 bytes.
  """
  total = hidden.shape[0]
  rows = min(rows, total)
  pad = -total % rows
  hidden = jnp.pad(hidden, ((0, pad), (0, 0)))
  extra = jnp.pad(extra, ((0, pad), (0, 0)))
  cut = lambda x: x.reshape(-1, rows, *x.shape[1:])
  out = jax.lax.map(
    jax.checkpoint(lambda pair: fn(*pair), prevent_cse=False),
    (cut(hidden), cut(extra)),
  )
  return out.reshape(-1, *out.shape[2:])[:total]


def token_logps(
  head: Head, hidden: Array, targets: Array, chunk: int = 256
) -> Array:
  """Log-softmax of the head's logits at the targets, in float32.

  Args:
    head: maps hidden states to float32 logits.
    hidden: float[M, D] states, each predicting one position.
    targets: int32[M, J] token ids; J different tokens per position.
    chunk: rows whose logits are held at one time.

  Returns:
    float32[M, J] log-probabilities in nats.
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
    hidden: float[M, D].
    exclude: int32[M] a token that must not be chosen (the released code's
      earlier rule takes the runner-up where the argmax is the gold token).
    chunk: rows whose logits are held at one time.

  Returns:
    int32[M] token ids.
  """
  barred = jnp.full((hidden.shape[0], 1), -1, jnp.int32)
  if exclude is not None:
    barred = exclude[:, None].astype(jnp.int32)

  def choose(h: Array, ids: Array) -> Array:
    logits = head(h)
    vocabulary = jnp.arange(logits.shape[-1])[None]
    logits = jnp.where(vocabulary == ids, -jnp.inf, logits)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)[:, None]

  return _in_chunks(choose, hidden, barred, chunk)[:, 0]
