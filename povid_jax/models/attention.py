"""Attention: full, causal, and branches over a shared prefix."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
NEG = -1e30  # finite: a row with no allowed key gives numbers, not NaN
_QUERIES = 128  # causal queries that read their keys together, at least
_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def grouped(q_BTHA: Array, num_kv_heads: int) -> Array:
  """Query heads by the key/value head they share: [B, T, K, G, A]."""
  *lead, heads, dim = q_BTHA.shape
  return q_BTHA.reshape(*lead, num_kv_heads, heads // num_kv_heads, dim)


class _Sums(NamedTuple):
  """A softmax over keys that come part by part: largest logit, sum of
  exponentials, weighted sum of values; float32[..., 1], [..., 1], [..., A].
  At first of no key."""

  largest: Array | float = -math.inf
  total: Array | float = 0.0
  values: Array | float = 0.0

  def add(self, logits: Array, product: Callable[[Array], Array]) -> "_Sums":
    """Takes in keys.

    Args:
      logits: float32[..., S].
      product: makes float[..., A] of weights float32[..., S]: their product
        with the keys' values. Its cotangent has the dtype that it gives.
    """
    # the largest logit cancels, so no gradient needs to pass it
    here = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    largest = jnp.maximum(self.largest, here)
    weights = jnp.exp(logits - largest)
    old = jnp.exp(self.largest - largest)
    return _Sums(
      largest,
      old * self.total + weights.sum(-1, keepdims=True),
      old * self.values + product(weights),
    )

  def mean(self) -> Array:
    """float32[..., A]; the few sums are divided, not the many weights."""
    return jnp.asarray(self.values / self.total)


def self_attention(
  q_BTHA: Array,
  k_BTKA: Array,
  v_BTKA: Array,
  *,
  causal: bool,
  window: int | None = None,
) -> Array:
  """Scaled dot-product attention of a sequence with itself.

  Right-padding needs no mask when causal: no real token looks that far.

  Args:
    q_BTHA: float[B, T, H, A] queries.
    k_BTKA: float[B, T, K, A] keys, H a multiple of K.
    v_BTKA: float[B, T, K, A] values.
    causal: a query sees keys at its own index and before.
    window: with causal, how many keys (its own included) a query sees.

  Returns:
    float[B, T, H, A] in the dtype of the values.
  """
  length, dtype = q_BTHA.shape[1], v_BTKA.dtype
  # head by head: each head's product is one over memory in order
  q_BKGTA = jnp.moveaxis(grouped(q_BTHA, k_BTKA.shape[2]), 1, 3)
  k_BKTA, v_BKTA = jnp.swapaxes(k_BTKA, 1, 2), jnp.swapaxes(v_BTKA, 1, 2)
  scale = 1.0 / math.sqrt(q_BTHA.shape[-1])

  def block(start: int, end: int) -> Array:
    """Queries start .. end - 1 over the keys that one of them sees."""
    first = max(0, start + 1 - window) if causal and window else 0
    last = end if causal else length
    logits = scale * _einsum(
      "bkgta,bksa->bkgts", q_BKGTA[..., start:end, :], k_BKTA[:, :, first:last]
    )
    if causal:
      age = jnp.arange(start, end)[:, None] - jnp.arange(first, last)[None]
      allowed = age >= 0
      if window is not None:
        allowed &= age < window
      logits = jnp.where(allowed, logits, NEG)
    values = v_BKTA[:, :, first:last]
    product = lambda w: jnp.einsum("bkgts,bksa->bkgta", w.astype(dtype), values)
    return _Sums().add(logits, product).mean().astype(dtype)

  size = queries(length) if causal else length
  out = [block(i, min(i + size, length)) for i in range(0, length, size)]
  out_BKGTA = out[0] if len(out) == 1 else jnp.concatenate(out, axis=3)
  return jnp.moveaxis(out_BKGTA, 3, 1).reshape(q_BTHA.shape)


def queries(length: int) -> int:
  """How many causal queries read their keys together.

  Keys behind the last of them are left out, nearly half of a long sequence's.
  At most 16 blocks, because each is compiled.
  """
  return min(length, -(-length // (16 * _QUERIES)) * _QUERIES)


def branch_attention(
  q_BNQHA: Array,
  prefix_k_BPKA: Array,
  prefix_v_BPKA: Array,
  own_k_BNCKA: Array,
  own_v_BNCKA: Array,
  prefix_len_B: Array,
  query_index_Q: Array,
  window: int | None = None,
) -> Array:
  """Queries of N branches over [the shared prefix, their own branch].

  Key p of the prefix is seen when p < prefix_len; key c of the query's own
  branch when c <= the query's index in that branch. Branches never see each
  other. For prefix_len 2 of P = 3 and C = 2 the mask of one branch is

      query 0:  1 1 0 | 1 0
      query 1:  1 1 0 | 1 1

  Args:
    q_BNQHA: float[B, N, Q, H, A] queries (Q = C in training, 1 in decoding).
    prefix_k_BPKA, prefix_v_BPKA: float[B, P, K, A], computed once per pair.
    own_k_BNCKA, own_v_BNCKA: float[B, N, C, K, A].
    prefix_len_B: int[B] real tokens of the prefix.
    query_index_Q: int[Q] index of each query in its branch.
    window: how many keys (its own included) a query sees, or None.

  Returns:
    float[B, N, Q, H, A] in the dtype of the values.
  """
  kv_heads, length = prefix_k_BPKA.shape[2], prefix_k_BPKA.shape[1]
  dtype = own_v_BNCKA.dtype
  q_BKNGQA = jnp.transpose(grouped(q_BNQHA, kv_heads), (0, 3, 1, 4, 2, 5))
  prefix_k, prefix_v = (
    jnp.swapaxes(x, 1, 2) for x in (prefix_k_BPKA, prefix_v_BPKA)
  )  # [B, K, P, A]
  own_k, own_v = (
    jnp.transpose(x, (0, 3, 1, 2, 4)) for x in (own_k_BNCKA, own_v_BNCKA)
  )  # [B, K, N, C, A]
  scale = 1.0 / math.sqrt(q_BNQHA.shape[-1])
  # two products instead of joined keys, which would copy the prefix's keys for
  # every branch
  to_prefix = scale * _einsum("bkngqa,bkpa->bkngqp", q_BKNGQA, prefix_k)
  to_own = scale * _einsum("bkngqa,bknca->bkngqc", q_BKNGQA, own_k)
  index_P = jnp.arange(length)
  seen_prefix = index_P[None] < prefix_len_B[:, None]  # [B, P]
  seen_prefix = seen_prefix[:, None, None, None, None, :]
  own_age_QC = query_index_Q[:, None] - jnp.arange(own_k.shape[3])[None]
  seen_own = own_age_QC >= 0
  if window is not None:
    # positions, not indices: padding between prefix and branch does not count
    position_BQ = prefix_len_B[:, None] + query_index_Q[None]
    age_BQP = position_BQ[:, :, None] - index_P[None, None]
    seen_prefix = seen_prefix & (age_BQP < window)[:, None, None, None]
    seen_own &= own_age_QC < window
  of_prefix = lambda w: jnp.einsum(
    "bkngqp,bkpa->bkngqa", w.astype(dtype), prefix_v
  )
  of_own = lambda w: jnp.einsum("bkngqc,bknca->bkngqa", w.astype(dtype), own_v)
  # one softmax over both parts, as if the branch stood behind its prefix
  sums = _Sums().add(jnp.where(seen_prefix, to_prefix, NEG), of_prefix)
  sums = sums.add(jnp.where(seen_own, to_own, NEG), of_own)
  out = sums.mean().astype(dtype)
  return jnp.transpose(out, (0, 2, 4, 1, 3, 5)).reshape(q_BNQHA.shape)


def decode_attention(
  q_SNHA: Array,
  k_SNKA: Array,
  v_SNKA: Array,
  prefix: tuple[Array, Array],
  own: tuple[Array, Array],
  prefix_len_S: Array,
  written_SN: Array,
  *,
  block: int,
  window: int | None = None,
) -> Array:
  """One new token of each branch over [prefix, own tokens so far, itself].

  Keys and values lie head by head, so that each head's products are one matrix
  product over memory in order. Own keys are read in blocks, as many as the
  longest branch has begun: a block without a written key would add exact
  zeros, so a row's result does not depend on how long the other rows are.

  Args:
    q_SNHA: float[S, N, H, A] queries of N branches of S prompts.
    k_SNKA, v_SNKA: float[S, N, K, A] key and value of the same token.
    prefix: keys and values float[S, K, P, A], shared by the branches.
    own: keys and values float[S, N, K, C, A]; C is a multiple of `block`.
    prefix_len_S: int[S] real tokens of the prefix.
    written_SN: int[S, N] how many of the C keys are the branch's.
    block: keys that are read at a time.
    window: how many keys (its own included) a query sees, or None.

  Returns:
    float[S, N, H, A] in the dtype of the values.
  """
  prefix_k, prefix_v = prefix
  own_k, own_v = own
  slots, branches, kv_heads, length = own_k.shape[:4]
  scale = 1.0 / math.sqrt(q_SNHA.shape[-1])
  dtype = own_v.dtype
  q = grouped(q_SNHA, kv_heads)  # [S, N, K, G, A]

  # the prefix: the queries of all branches are rows of one product
  index_P = jnp.arange(prefix_k.shape[2])
  seen = index_P[None] < prefix_len_S[:, None]
  seen = jnp.broadcast_to(seen[:, None], (slots, branches, seen.shape[-1]))
  if window is not None:
    at_SN = prefix_len_S[:, None] + written_SN
    seen &= at_SN[..., None] - index_P[None, None] < window
  logits = scale * _einsum("snkga,skpa->snkgp", q, prefix_k)
  logits = jnp.where(seen[:, :, None, None], logits, NEG)
  # A sliding window may exclude the whole prefix. Then these sums are
  # meaningless, and the token's own logit, added last, scales them to zero.
  sums = _Sums().add(
    logits, lambda w: _einsum("snkgp,skpa->snkga", w.astype(dtype), prefix_v)
  )

  def read(number: Array | int, sums: _Sums) -> _Sums:
    cut = lambda x: jax.lax.dynamic_slice_in_dim(x, number * block, block, 3)
    index = number * block + jnp.arange(block)[None, None]
    age = written_SN[..., None] - index
    seen = age > 0
    if window is not None:
      seen &= age < window
    logits = scale * _einsum("snkga,snkca->snkgc", q, cut(own_k))
    logits = jnp.where(seen[:, :, None, None], logits, NEG)
    values = cut(own_v)
    return sums.add(
      logits, lambda w: _einsum("snkgc,snkca->snkga", w.astype(dtype), values)
    )

  # a loop whose end only the device knows costs more than one block
  if length == block:
    sums = read(0, sums)
  else:
    begun = (written_SN.max() + block - 1) // block
    sums = jax.lax.fori_loop(0, begun, read, sums)
  # the token sees itself, and its key is not in `own` yet
  logit = scale * _einsum("snkga,snka->snkg", q, k_SNKA)[..., None]
  v = v_SNKA[:, :, :, None].astype(jnp.float32)
  sums = sums.add(logit, lambda weight: weight * v)
  return sums.mean().astype(dtype).reshape(q_SNHA.shape)
