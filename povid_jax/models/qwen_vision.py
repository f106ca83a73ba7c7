"""The vision transformer of Qwen2.5-VL: pictures at their own size.

A row of a batch holds the patches of all its pictures one behind the other,
window by window, as the host laid them (data/qwen_layout.py):

  pixels    uint8[B, L, h * w * 3], one patch each; those of an image token
            lie together
  position  int32[B, L, 2], row and column of a patch in its picture
  window    int32[B, L], number of the attention window in its row, from 1
  picture   int32[B, L], number of the picture in its row, from 1
  index     int32[B, M], for each image token in reading order where its
            patches lie, counted in tokens

Padding has window 0 and picture 0. Numbers, not shapes, say who sees whom: a
row costs its own patches, and pictures of any size share one program.

Source of the arithmetic: arXiv 2502.13923 and transformers'
modeling_qwen2_5_vl.py.
"""

import functools
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from povid_jax.models.attention import NEG
from povid_jax.models.config import LlavaConfig, QwenVisionConfig
from povid_jax.models.layers import Linear, RMSNorm
from povid_jax.models.partition import by_batch
from povid_jax.models.rope import axial_table, rotate

Array = jax.Array
EPS = 1e-6  # of every norm; no config.json has it
# Of a whole picture: memory is that of the logits of so many queries.
PATCHES_AT_A_TIME = 1024


def _scores(q: Array, k: Array, same: Array) -> Array:
  """Softmax weights float32[..., H, Q, K] of [..., Q, H, A], [..., K, H, A]."""
  logits = jnp.einsum(
    "...qha,...kha->...hqk", q, k, preferred_element_type=jnp.float32
  )
  logits = jnp.where(same[..., None, :, :], logits * q.shape[-1] ** -0.5, NEG)
  return jax.nn.softmax(logits, axis=-1)


def _attend(q: Array, k: Array, v: Array, own: Array, keys: Array) -> Array:
  """Queries see the keys of their own number."""
  weights = _scores(q, k, own[..., :, None] == keys[..., None, :])
  return jnp.einsum("...hqk,...kha->...qha", weights.astype(v.dtype), v)


def picture_attention(q: Array, k: Array, v: Array, picture: Array) -> Array:
  """Every patch sees all patches of its picture.

  Args:
    q, k, v: float[B, L, H, A].
    picture: int32[B, L] numbers.

  Returns:
    float[B, L, H, A].
  """
  batch, length = picture.shape
  if length <= PATCHES_AT_A_TIME:
    return _attend(q, k, v, picture, picture)
  pad = -length % PATCHES_AT_A_TIME

  def cut(x: Array) -> Array:
    x = jnp.pad(x, ((0, 0), (0, pad), *[(0, 0)] * (x.ndim - 2)))
    return x.reshape(batch, -1, PATCHES_AT_A_TIME, *x.shape[2:]).swapaxes(0, 1)

  some = jax.checkpoint(lambda one: _attend(one[0], k, v, one[1], picture))
  out = jax.lax.map(some, (cut(q), cut(picture))).swapaxes(0, 1)
  return out.reshape(batch, -1, *q.shape[2:])[:, :length]


def window_attention(
  q: Array, k: Array, v: Array, window: Array, block: int
) -> Array:
  """Every patch sees the patches of its window.

  A window's patches lie together and are at most `block` many, so they lie in
  two blocks at most: a block of queries looks at itself and its neighbours.

  Args:
    q, k, v: float[B, L, H, A], L a multiple of `block`.
    window: int32[B, L] numbers.
    block: the most patches of a window.
  """
  batch, length = window.shape
  cut = lambda x: x.reshape(batch, length // block, block, *x.shape[2:])

  def near(x: Array, empty: int) -> Array:
    blocks = cut(x)
    edge = jnp.full_like(blocks[:, :1], empty)
    before = jnp.concatenate([edge, blocks[:, :-1]], axis=1)
    after = jnp.concatenate([blocks[:, 1:], edge], axis=1)
    return jnp.concatenate([before, blocks, after], axis=2)

  out = _attend(cut(q), near(k, 0), near(v, 0), cut(window), near(window, -1))
  return out.reshape(q.shape)


class _Attention(nnx.Module):
  def __init__(self, config: QwenVisionConfig, rngs: nnx.Rngs):
    dim, stack = config.hidden_size, (config.num_layers,)
    # one matrix, as published: an adapter of it is one too
    self.qkv = Linear(dim, 3 * dim, rngs=rngs, bias=True, stack=stack)
    self.proj = Linear(dim, dim, rngs=rngs, bias=True, stack=stack)
    self.num_heads = config.num_heads
    self.block = config.window_patches

  def __call__(
    self,
    x_BLD: Array,
    rotary: tuple[Array, Array],
    images: Mapping[str, Array],
    full: bool,
    adapter: bool,
  ) -> Array:
    qkv = self.qkv(x_BLD, adapter)
    qkv = qkv.reshape(*x_BLD.shape[:2], 3, self.num_heads, -1)
    q, k = (rotate(qkv[:, :, i], *rotary) for i in range(2))
    v = qkv[:, :, 2]
    if full:
      out = picture_attention(q, k, v, images["picture"])
    else:
      out = window_attention(q, k, v, images["window"], self.block)
    return self.proj(out.reshape(x_BLD.shape), adapter)


class _Mlp(nnx.Module):
  def __init__(self, config: QwenVisionConfig, rngs: nnx.Rngs):
    dim, wide = config.hidden_size, config.intermediate_size
    make = lambda into, out: Linear(
      into, out, rngs=rngs, bias=True, stack=(config.num_layers,)
    )
    self.gate_proj, self.up_proj = make(dim, wide), make(dim, wide)
    self.down_proj = make(wide, dim)

  def __call__(self, x: Array, adapter: bool) -> Array:
    gate = jax.nn.silu(self.gate_proj(x, adapter))
    return self.down_proj(gate * self.up_proj(x, adapter), adapter)


class _Layer(nnx.Module):
  def __init__(self, config: QwenVisionConfig, rngs: nnx.Rngs):
    dim, stack = config.hidden_size, (config.num_layers,)
    self.norm1 = RMSNorm(dim, EPS, stack)
    self.attn = _Attention(config, rngs)
    self.norm2 = RMSNorm(dim, EPS, stack)
    self.mlp = _Mlp(config, rngs)

  def __call__(
    self,
    x: Array,
    rotary: tuple[Array, Array],
    images: Mapping[str, Array],
    full: bool,
    adapter: bool,
  ) -> Array:
    x = x + self.attn(self.norm1(x), rotary, images, full, adapter)
    return by_batch(x + self.mlp(self.norm2(x), adapter))


def _runs(config: QwenVisionConfig) -> list[tuple[bool, int]]:
  """(whole pictures are looked at, layers one behind the other like this), as
  far as the pattern of the layers does not repeat itself."""
  full = [layer in config.full_layers for layer in range(config.num_layers)]
  period = next(
    n for n in range(1, len(full) + 1) if full[:n] * (len(full) // n) == full
  )
  groups = itertools.groupby(full[:period])
  return [(kind, len(list(group))) for kind, group in groups]


class QwenVision(nnx.Module):
  """Patches to features, a patch each."""

  def __init__(self, config: QwenVisionConfig, rngs: nnx.Rngs):
    patch = config.patch_size
    shape = (config.frames, patch, patch, 3, config.hidden_size)
    init = jax.random.normal(rngs.params(), shape)
    self.patch_embedding = nnx.Param(init / np.sqrt(np.prod(shape[:-1])))
    self.layers = _Layer(config, rngs)
    self.config = config

  def __call__(
    self, pixels: Array, images: Mapping[str, Array], adapter: bool = True
  ) -> Array:
    """Features of every patch, in the patches' own order.

    Args:
      pixels: float[B, L, h * w * 3] normalised.
      images: everything but the pixels is read.
      adapter: whether LoRA takes part.

    Returns:
      float[B, L, D].
    """
    # a picture is a film of equal frames: their kernels can be added first
    kernel = self.patch_embedding[...].astype(jnp.float32).sum(axis=0)
    kernel = kernel.reshape(-1, kernel.shape[-1]).astype(pixels.dtype)
    config = self.config
    head_dim = config.hidden_size // config.num_heads
    rotary = axial_table(images["position"], head_dim)
    graph, stacked = nnx.split(self.layers)

    def body(full: bool, x: Array, layer: nnx.State) -> tuple[Array, None]:
      merged = nnx.merge(graph, layer)
      return merged(x, rotary, images, full, adapter), None

    # a trained tower keeps a layer's input only
    body = jax.checkpoint(body, prevent_cse=False, static_argnums=0)
    runs = _runs(config)

    def period(x: Array, layers: nnx.State) -> tuple[Array, None]:
      """Layers until their pattern repeats; what each sees is static."""
      start = 0
      for full, count in runs:
        part = slice(start, start := start + count)
        some = jax.tree.map(lambda w, part=part: w[part], layers)
        x = jax.lax.scan(functools.partial(body, full), x, some)[0]
      return x, None

    count = sum(count for _, count in runs)
    stacked = jax.tree.map(
      lambda w: w.reshape(-1, count, *w.shape[1:]), stacked
    )
    return jax.lax.scan(period, pixels @ kernel, stacked)[0]


class Merger(nnx.Module):
  """Squares of patches to image tokens of the decoder's width."""

  def __init__(self, config: LlavaConfig, rngs: nnx.Rngs):
    tower, d_out = config.vision, config.decoder.hidden_size
    assert isinstance(tower, QwenVisionConfig)
    wide = tower.hidden_size * tower.merged
    self.norm = RMSNorm(tower.hidden_size, EPS)
    self.linear_1 = Linear(wide, wide, rngs=rngs, bias=True)
    self.linear_2 = Linear(wide, d_out, rngs=rngs, bias=True)
    self.wide = wide

  def __call__(self, features: Array, adapter: bool = True) -> Array:
    """float[B, L, D] patches to float[B, L / merged, d_out] tokens."""
    h = self.norm(features)
    h = h.reshape(h.shape[0], -1, self.wide)
    h = jax.nn.gelu(self.linear_1(h, adapter), approximate=False)
    return self.linear_2(h, adapter)
