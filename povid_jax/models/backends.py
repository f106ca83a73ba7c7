"""How a row of one prefix and N branches attends: xla, cudnn or splash.

All of them compute what `attention` defines; they differ in memory and speed:

  xla     whole squares of logits, anywhere
  cudnn   flash attention of NVIDIA's library (bfloat16), through
          jax.nn.dot_product_attention
  splash  the Pallas kernel for TPUs, which skips blocks that the mask empties
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from povid_jax.errors import UserError
from povid_jax.models import partition
from povid_jax.models.attention import branch_attention, self_attention
from povid_jax.models.config import DecoderConfig

Array = jax.Array
BACKENDS = ("auto", "xla", "cudnn", "splash")
LANES = 128  # splash works on blocks of multiples of this


class Row(NamedTuple):
  """The static lengths of a row of P + N * C tokens.

  Attributes:
    prefix: P.
    branches: N.
    length: C.
  """

  prefix: int
  branches: int
  length: int


def _why_not(
  name: str, config: DecoderConfig, dtype: jnp.dtype, platform: str
) -> str | None:
  """Why a backend cannot be used, or None."""
  if name == "cudnn":
    if platform not in ("gpu", "cuda"):
      return f"it needs an NVIDIA GPU, this is {platform}"
    if jnp.dtype(dtype).itemsize != 2:
      return f"it needs dtype=bfloat16, got {jnp.dtype(dtype).name}"
    if config.head_dim % 8 or config.head_dim > 128:
      return f"head_dim={config.head_dim}: want a multiple of 8 up to 128"
  if name == "splash":
    if platform != "tpu":
      return f"it needs a TPU, this is {platform}"
    if config.head_dim % LANES:
      return f"head_dim={config.head_dim}: want a multiple of {LANES}"
    if config.sliding_window is not None:
      return "the model has a sliding window"
  return None


def choose(
  name: str,
  config: DecoderConfig,
  dtype: jnp.dtype,
  platform: str | None = None,
) -> str:
  """The backend that runs: `name`, or for `auto` the best that can.

  Args:
    name: one of BACKENDS.
    config: of the decoder.
    dtype: of activations.
    platform: cpu | gpu | tpu; None for the one JAX runs on.

  Raises:
    UserError: the backend does not exist, or cannot run this model here.
  """
  platform = platform or jax.default_backend()
  if name not in BACKENDS:
    raise UserError(f"config.attention: want one of {BACKENDS}, got {name!r}")
  if name == "auto":
    able = (
      n for n in ("cudnn", "splash") if not _why_not(n, config, dtype, platform)
    )
    return next(able, "xla")
  reason = _why_not(name, config, dtype, platform)
  if reason:
    raise UserError(f"config.attention={name}: {reason}; use auto or xla")
  return name


def attend(
  q_BTHA: Array,
  k_BTKA: Array,
  v_BTKA: Array,
  prefix_len_B: Array,
  row: Row,
  *,
  window: int | None = None,
  backend: str = "xla",
) -> Array:
  """Attention of rows whose T = P + N * C tokens are a prefix and branches.

  The prefix attends causally to itself; a branch to the real prefix tokens
  and, causally, to itself.

  Args:
    q_BTHA: float[B, T, H, A], or float[B, N * C, H, A]: the branches' only.
    k_BTKA, v_BTKA: float[B, T, K, A], H a multiple of K.
    prefix_len_B: int[B] real tokens of the prefix.
    row: P, N and C.
    window: how many keys (its own included) a query sees, or None.
    backend: xla | cudnn | splash, as `choose` returned it.

  Returns:
    As many as the queries; rows of padding hold numbers without meaning.
  """
  if backend == "splash":
    return splash(q_BTHA, k_BTKA, v_BTKA, prefix_len_B, row)
  one = cudnn if backend == "cudnn" else xla
  return one(q_BTHA, k_BTKA, v_BTKA, prefix_len_B, row, window)


def xla(
  q: Array, k: Array, v: Array, prefix_len: Array, row: Row, window: int | None
) -> Array:
  """See `attend`."""
  own = lambda x: x[:, -row.branches * row.length :].reshape(
    x.shape[0], row.branches, row.length, *x.shape[2:]
  )
  first = lambda x: x[:, : row.prefix]
  tail = branch_attention(
    own(q),
    first(k),
    first(v),
    own(k),
    own(v),
    prefix_len,
    jnp.arange(row.length),
    window,
  )
  tail = tail.reshape(*tail.shape[:1], -1, *tail.shape[3:])
  if q.shape[1] < k.shape[1]:
    return tail
  head = self_attention(
    first(q), first(k), first(v), causal=True, window=window
  )
  return jnp.concatenate([head, tail], axis=1)


def cudnn(
  q: Array,
  k: Array,
  v: Array,
  prefix_len: Array,
  row: Row,
  window: int | None,
  implementation: Literal["xla", "cudnn"] = "cudnn",
) -> Array:
  """See `attend`. Two flash calls: causal prefix, and masked branches.

  A branch's queries meet the other branches' keys too, and are masked: less
  work than a second copy of the prefix's keys would be to move.
  """
  call = jax.nn.dot_product_attention
  mask = branch_mask(prefix_len, row, window)[:, None]
  own = q[:, -row.branches * row.length :]
  tail = call(own, k, v, mask=mask, implementation=implementation)
  if q.shape[1] < k.shape[1]:
    return tail
  first = lambda x: x[:, : row.prefix]
  head = call(
    first(q),
    first(k),
    first(v),
    is_causal=True,
    local_window_size=None if window is None else (window - 1, 0),
    implementation=implementation,
  )
  return jnp.concatenate([head, tail], axis=1)


def branch_mask(prefix_len: Array, row: Row, window: int | None) -> Array:
  """bool[B, N * C, P + N * C]: the keys that each branch query sees."""
  index = jnp.arange(row.branches * row.length)
  branch, age = index // row.length, index[:, None] - index[None]
  key = jnp.arange(row.prefix)[None, None]
  seen = jnp.broadcast_to(
    key < prefix_len[:, None, None], (len(prefix_len), index.size, row.prefix)
  )
  own = (branch[:, None] == branch[None]) & (age >= 0)
  if window is not None:
    position = prefix_len[:, None] + index[None] % row.length
    seen &= position[:, :, None] - key < window
    own &= age < window
  own = jnp.broadcast_to(own, (len(prefix_len), *own.shape))
  return jnp.concatenate([seen, own], axis=-1)


def _static_mask(row: Row, start: int, queries: int, keys: int) -> np.ndarray:
  """bool[queries, keys]: `attend`'s mask but for the prefix's padding.

  Args:
    start: the first query is token `start` of the row: 0 or P.
    queries, keys: whole blocks. What is behind the row is padding, which sees
      the last key of the row: a query without any key would give NaN.
  """
  total = row.prefix + row.branches * row.length
  query, key = start + np.arange(queries), np.arange(keys)
  group = lambda i: np.where(i < row.prefix, -1, (i - row.prefix) // row.length)
  same = group(query)[:, None] == group(key)
  mask = (query[:, None] >= key) & (same | (group(key) == -1))
  mask[query >= total] = key == total - 1
  return mask


def splash(
  q: Array,
  k: Array,
  v: Array,
  prefix_len: Array,
  row: Row,
  interpret: bool = False,
) -> Array:
  """See `attend`. One call of the TPU kernel for all queries.

  Which branch sees what is a static mask, whose empty blocks are skipped. How
  long each prefix is comes as segments: real tokens are of segment 1, the
  prefix's padding is of segment 0, and segments do not see each other.

  Args:
    interpret: run the kernel step by step, to test it without a TPU.
  """
  length = q.shape[1]
  start = k.shape[1] - length
  queries, keys = (-(-x.shape[1] // LANES) * LANES for x in (q, k))
  widen = lambda x, size: jnp.pad(
    x, ((0, 0), (0, size - x.shape[1]), (0, 0), (0, 0))
  )

  def segments(index: Array) -> Array:
    real = (index < prefix_len[:, None]) | (index >= row.prefix)
    return real.astype(jnp.int32)

  def local(q: Array, k: Array, v: Array, *segments: Array) -> Array:
    kernel, ids = _kernel(row, start, queries, keys, q.shape[2], interpret)
    heads_first = lambda x: x.swapaxes(1, 2)
    run = lambda q, k, v, *each: kernel(q, k, v, segment_ids=ids(*each))
    out = jax.vmap(run)(*(heads_first(x) for x in (q, k, v)), *segments)
    return heads_first(out)

  q = q * jnp.asarray(1.0 / math.sqrt(q.shape[-1]), q.dtype)
  out = _on_each_device(local)(
    *(widen(q, queries), widen(k, keys), widen(v, keys)),
    segments(start + jnp.arange(queries)[None]),
    segments(jnp.arange(keys)[None]),
  )
  return out[:, :length]


def _kernel(
  row: Row, start: int, queries: int, keys: int, heads: int, interpret: bool
) -> tuple:
  # Pallas for TPUs takes a moment to import and no other backend needs it
  from jax.experimental.pallas.ops.tpu import splash_attention as pallas

  block = lambda length: next(
    b for b in (512, 384, 256, LANES) if length % b == 0
  )
  of_q, of_kv = block(queries), block(keys)
  sizes = pallas.BlockSizes(
    block_q=of_q,
    block_kv=of_kv,
    block_q_dkv=of_q,
    block_kv_dkv=of_kv,
    block_q_dq=of_q,
    block_kv_dq=of_kv,
  )
  mask = pallas.NumpyMask(_static_mask(row, start, queries, keys))
  kernel = pallas.make_splash_mha(
    pallas.MultiHeadMask([mask] * heads),
    block_sizes=sizes,
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
  return kernel, pallas.SegmentIds


def _on_each_device(fn):
  """Gives the partitioner the cut of the arrays, which it cannot find inside a
  kernel.
  """
  mesh = partition.mesh()
  if mesh is None:
    return fn
  rows = partition.ROWS
  cut = P(rows, None, "tensor", None)
  return jax.shard_map(
    fn,
    mesh=mesh,
    in_specs=(cut, cut, cut, P(rows), P(rows)),
    out_specs=cut,
    check_vma=False,
  )
