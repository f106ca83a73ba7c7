"""How an answer is decoded, and the choice of its next token."""

import dataclasses

import jax
import jax.numpy as jnp

from povid_jax.errors import UserError

Array = jax.Array
NOT_FINITE = -1  # stands where a token was to be chosen among NaN or infinity


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How answers are written.

  Attributes:
    max_new_tokens: longest answer, </s> included.
    temperature: 0 is greedy.
    top_p: keep the smallest set of tokens with this much probability.
    top_k: keep this many tokens; 0 keeps all.
    seed: of the sampling; every question has its own stream, so answers do
      not depend on how questions are batched.
    batch_size: questions answered at a time.
  """

  max_new_tokens: int = 1024
  temperature: float = 0.0
  top_p: float = 1.0
  top_k: int = 0
  seed: int = 0
  batch_size: int = 16

  def __post_init__(self) -> None:
    if self.max_new_tokens < 1 or self.batch_size < 1:
      raise UserError("max_new_tokens and batch_size: want at least 1")
    if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
      raise UserError(
        "want temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got "
        f"{self.temperature}, {self.top_k} and {self.top_p}"
      )


def choose(logits: Array, keys: Array, decoding: Decoding) -> Array:
  """Next tokens int32[B] from float32[B, V] logits and one key per row."""
  # the maximum is NaN or infinite where one of them is (one at -inf is none)
  finite = jnp.isfinite(jnp.max(logits, axis=-1))
  return jnp.where(finite, _choose(logits, keys, decoding), NOT_FINITE)


def _choose(logits: Array, keys: Array, decoding: Decoding) -> Array:
  if decoding.temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  logits = logits / decoding.temperature
  if decoding.top_k:
    k = min(decoding.top_k, logits.shape[-1])
    least = jax.lax.top_k(logits, k)[0][:, -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if decoding.top_p < 1:
    ordered = jnp.sort(logits, axis=-1)[:, ::-1]
    probs = jax.nn.softmax(ordered, axis=-1)
    # a token is kept while the mass before it is below top_p
    before = jnp.cumsum(probs, axis=-1) - probs
    count = jnp.sum(before < decoding.top_p, axis=-1, keepdims=True)
    least = jnp.take_along_axis(ordered, count - 1, axis=-1)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
