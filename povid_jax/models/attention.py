"""Attention: full, causal, and branches over a shared prefix."""

import math

import jax
import jax.numpy as jnp

Array = jax.Array
NEG = -1e30  # finite: a row with no allowed key gives numbers, not NaN


def grouped(q_BTHA: Array, num_kv_heads: int) -> Array:
  """Query heads by the key/value head they share: [B, T, K, G, A]."""
  *lead, heads, dim = q_BTHA.shape
  return q_BTHA.reshape(*lead, num_kv_heads, heads // num_kv_heads, dim)


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
  q_BTKGA = grouped(q_BTHA, k_BTKA.shape[2])
  scale = 1.0 / math.sqrt(q_BTHA.shape[-1])
  logits = scale * jnp.einsum(
    "btkga,bska->bkgts",
    q_BTKGA,
    k_BTKA,
    preferred_element_type=jnp.float32,
  )
  if causal:
    length = q_BTHA.shape[1]
    age_TT = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    allowed = age_TT >= 0
    if window is not None:
      allowed &= age_TT < window
    logits = jnp.where(allowed, logits, NEG)
  weights = jax.nn.softmax(logits, axis=-1).astype(v_BTKA.dtype)
  out = jnp.einsum("bkgts,bska->btkga", weights, v_BTKA)
  return out.reshape(q_BTHA.shape)


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
    float[B, N, Q, H, A].
  """
  kv_heads, length = prefix_k_BPKA.shape[2], prefix_k_BPKA.shape[1]
  q = grouped(q_BNQHA, kv_heads)
  scale = 1.0 / math.sqrt(q_BNQHA.shape[-1])
  to_prefix = jnp.einsum(
    "bnqkga,bpka->bnkgqp", q, prefix_k_BPKA, preferred_element_type=jnp.float32
  )
  to_own = jnp.einsum(
    "bnqkga,bncka->bnkgqc", q, own_k_BNCKA, preferred_element_type=jnp.float32
  )
  index_P = jnp.arange(length)
  seen_prefix = index_P < prefix_len_B[:, None]  # [B, P]
  seen_prefix = seen_prefix[:, None, None, None, None, :]
  own_age_QC = query_index_Q[:, None] - jnp.arange(own_k_BNCKA.shape[2])
  seen_own = own_age_QC >= 0
  if window is not None:
    position_BQ = prefix_len_B[:, None] + query_index_Q
    age_BQP = position_BQ[:, :, None] - index_P
    seen_prefix = seen_prefix & (age_BQP < window)[:, None, None, None]
    seen_own &= own_age_QC < window
  logits = scale * jnp.concatenate(
    [
      jnp.where(seen_prefix, to_prefix, NEG),
      jnp.where(seen_own, to_own, NEG),
    ],
    axis=-1,
  )
  weights = jax.nn.softmax(logits, axis=-1).astype(own_v_BNCKA.dtype)
  out = jnp.einsum("bnkgqp,bpka->bnqkga", weights[..., :length], prefix_v_BPKA)
  out += jnp.einsum("bnkgqc,bncka->bnqkga", weights[..., length:], own_v_BNCKA)
  return out.reshape(q_BNQHA.shape)
