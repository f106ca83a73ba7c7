"""LLaVA: vision tower, projector and decoder over a prefix and N branches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from povid_jax.models import backends, pictures
from povid_jax.models.attention import decode_attention, self_attention
from povid_jax.models.config import (
  IMAGE_TOKEN,
  LlavaConfig,
  QwenVisionConfig,
  Tower,
  VisionConfig,
)
from povid_jax.models.layers import Linear
from povid_jax.models.llama import Llama
from povid_jax.models.partition import by_batch
from povid_jax.models.pictures import Images
from povid_jax.models.qwen_vision import Merger, QwenVision
from povid_jax.models.vit import VisionTransformer

Array = jax.Array


class Cache(NamedTuple):
  """Keys and values of every layer, float[L, B, T, K, A]."""

  keys: Array
  values: Array


class Projector(nnx.Module):
  """Vision features to the decoder's width."""

  def __init__(self, config: LlavaConfig, rngs: nnx.Rngs):
    d_in, d_out = config.vision.hidden_size, config.decoder.hidden_size
    self.linear_1 = Linear(d_in, d_out, rngs=rngs, bias=True)
    self.linear_2 = (
      Linear(d_out, d_out, rngs=rngs, bias=True)
      if config.projector == "mlp2x_gelu"
      else None
    )

  def __call__(self, features: Array, adapter: bool = True) -> Array:
    h = by_batch(self.linear_1(features, adapter))
    if self.linear_2 is None:
      return h
    return self.linear_2(jax.nn.gelu(h, approximate=False), adapter)


# tower and projector of a family, by the dimensions of its tower
PARTS: dict[type[Tower], tuple[Callable[..., Any], Callable[..., Any]]] = {
  VisionConfig: (VisionTransformer, Projector),
  QwenVisionConfig: (QwenVision, Merger),
}


class Llava(nnx.Module):
  """The whole model. The layout: docs/design.md, "A prefix and N branches"."""

  def __init__(
    self,
    config: LlavaConfig,
    rngs: nnx.Rngs,
    *,
    dtype: jnp.dtype = jnp.float32,
    remat: str = "none",
    attention: str = "xla",
  ):
    tower, projector = PARTS[type(config.vision)]
    self.vision = tower(config.vision, rngs)
    self.projector = projector(config, rngs)
    self.decoder = Llama(config.decoder, rngs)
    width = config.decoder.hidden_size
    self.image_newline = (
      nnx.Param(jax.random.normal(rngs.params(), (width,)) / width**0.5)
      if config.layout.newline
      else None
    )
    self.config = config
    self.dtype = dtype
    self.remat = remat
    self.attention = attention  # of `branches`; see models.backends

  def encode_images(
    self,
    images: Images,
    noise: tuple[Array, Array] | None = None,
    *,
    adapter: bool = True,
  ) -> Array:
    """Image tokens of a batch, each distinct image encoded once.

    Args:
      images: as the model's layout packs them, see `models.pictures`.
      noise: (scale, eps): the normalised pixels become
        scale[0] * pixels + scale[1] * eps, eps of the pixels' shape
        (the `pixels` noise site).
      adapter: whether LoRA on tower and projector takes part.

    Returns:
      float[B, M, D] in the order of the placeholders.
    """
    encode = pictures.ENCODERS[self.config.layout.kind]
    # whole in D: where all axes of the mesh cut something, the transpose of a
    # gather of rows that are cut in D too comes out wrong (XLA's partitioner)
    return by_batch(encode(self, images, noise, adapter))

  def embed_prefix(self, prefix_ids: Array, image_embeds: Array) -> Array:
    """Token embeddings with image tokens put at their placeholders.

    Args:
      prefix_ids: int32[B, P]; IMAGE_TOKEN where an image token belongs.
      image_embeds: float[B, M, D], at least as many as placeholders.

    Returns:
      float[B, P, D].
    """
    # gives row 0 for a placeholder, which is replaced below
    embeds = self.decoder.embed(prefix_ids, self.dtype)
    # a batch without pictures has no row to gather from
    if image_embeds.shape[1] == 0:
      return embeds
    is_image = prefix_ids == IMAGE_TOKEN
    # the k-th placeholder takes the k-th image token
    index = jnp.cumsum(is_image, axis=1) - 1
    # tokens before the first placeholder have -1; `where` drops what they
    # gather
    index = jnp.clip(index, 0, image_embeds.shape[1] - 1)
    placed = jnp.take_along_axis(image_embeds, index[..., None], axis=1)
    return jnp.where(is_image[..., None], placed, embeds)

  def prefill(
    self,
    prefix_ids: Array,
    image_embeds: Array,
    *,
    prefix_len: Array | None = None,
    adapter: bool = True,
    positions: Array | None = None,
  ) -> tuple[Array, Cache]:
    """Hidden states of the prefix, and its keys and values.

    Args:
      prefix_len: int32[B] real tokens: only the last one's state is wanted.
      positions: see `branches`.

    Returns:
      float[B, P, D], or with `prefix_len` float[B, 1, D], and the cache of all
      P tokens.
    """
    window = self.config.decoder.sliding_window
    x = self.embed_prefix(prefix_ids, image_embeds)
    batch, prefix, _ = x.shape
    positions = _prefix_positions(positions, batch, prefix)
    tail = None
    if prefix_len is not None:
      # a branch of one token, the prefix's last: the last layer is only run
      # for branches
      with_last = lambda x: jnp.concatenate([x, _last(x, prefix_len)], axis=1)
      x, positions, tail = with_last(x), with_last(positions), 1

    def attend(q: Array, k: Array, v: Array, _: None) -> tuple[Array, tuple]:
      kept = k[:, :prefix], v[:, :prefix]
      if prefix_len is None:
        return self_attention(q, k, v, causal=True, window=window), kept
      row = backends.Row(prefix, 1, 1)
      seen = prefix_len - 1
      return backends.attend(q, k, v, seen, row, window=window), kept

    hidden, (keys, values) = self.decoder(
      x, positions, attend, adapter=adapter, tail=tail, frozen=True
    )
    return hidden, Cache(keys, values)

  def branches(
    self,
    prefix_ids: Array,
    prefix_len: Array,
    branch_ids: Array,
    image_embeds: Array,
    *,
    adapter: bool = True,
    positions: Array | None = None,
    position_start: Array | None = None,
  ) -> Array:
    """Hidden states that predict each branch token, the prefix run once.

    Prefix and branches travel through the layers as one row of P + N * C
    tokens; only attention tells them apart. A branch is one token ahead: it
    begins with the last token of the prefix and leaves out its own last one,
    so its states are those that are wanted, and of the prefix none is.

    Args:
      prefix_ids: int32[B, P], right-padded.
      prefix_len: int32[B] real tokens.
      branch_ids: int32[B, N, C], right-padded.
      image_embeds: float[B, M, D] from `encode_images`.
      adapter: whether LoRA takes part (off: the reference model).
      positions: int32[B, P, 3] of the prefix; None: 0 .. P - 1.
      position_start: int32[B], position of the first token of every branch;
        None: prefix_len. (With three axes it is not the prefix's length.)

    Returns:
      float[B, N, C, D]: entry c predicts branch token c. Entry 0 is the
      last prefix token's state, entry c > 0 that of branch token c - 1.
    """
    batch, count, length = branch_ids.shape
    prefix = prefix_ids.shape[1]
    row = backends.Row(prefix, count, length)
    window = self.config.decoder.sliding_window

    def attend(q: Array, k: Array, v: Array, _: None) -> tuple[Array, None]:
      # the last token of the prefix is the branches' now
      seen = prefix_len - 1
      out = backends.attend(
        q, k, v, seen, row, window=window, backend=self.attention
      )
      return out, None

    x_BPD = by_batch(self.embed_prefix(prefix_ids, image_embeds))
    own = self.decoder.embed(branch_ids[:, :, :-1], self.dtype)
    first = jnp.broadcast_to(
      _last(x_BPD, prefix_len)[:, None], (batch, count, 1, x_BPD.shape[-1])
    )
    own = jnp.concatenate([first, own], axis=2).reshape(
      batch, -1, own.shape[-1]
    )
    x = jnp.concatenate([x_BPD, own], axis=1)

    before = _prefix_positions(positions, batch, prefix)
    start = prefix_len if position_start is None else position_start
    # all branches start at the same position: each follows the prefix directly
    after = start[:, None] + jnp.arange(length - 1)[None]
    after = jnp.concatenate(
      [_last(before, prefix_len), _text_positions(after, before)], axis=1
    )
    after = jnp.concatenate([after] * count, axis=1)
    hidden, _ = self.decoder(
      x,
      jnp.concatenate([before, after], axis=1),
      attend,
      adapter=adapter,
      remat=self.remat,
      tail=count * length,
    )
    return hidden.reshape(batch, count, length, -1)

  def decode_step(
    self,
    ids: Array,
    positions: Array,
    written: Array,
    prefix_len: Array,
    prefix: Any,
    own: Any,
    *,
    block: int,
  ) -> tuple[Array, Cache]:
    """One generated token for each of N branches of S prompts.

    Args:
      ids: int32[S, N] the tokens just chosen.
      positions: int32[S, N] their rotary positions, or [S, N, 3].
      written: int32[S, N] how many tokens of each branch `own` holds.
      prefix_len: int32[S].
      prefix: keys and values of the prefix per layer, (k, v) with [S, K, P, A]
        each: one pair of arrays with a leading layer axis, or after
        `Llama.unstack` a list of pairs.
      own: keys and values of the branches so far, the same with
        [S, N, K, C, A].
      block: see `decode_attention`.

    Returns:
      float32[S, N, V] logits of the next token, and the keys and values of
      these tokens, [L, S, N, K, A], for the caller to put into `own`.
    """
    slots, branches = ids.shape
    # branches are rows of a batch everywhere but in attention
    split = lambda x: x[:, 0].reshape(slots, branches, *x.shape[2:])

    def attend(q: Array, k: Array, v: Array, caches: tuple) -> tuple:
      prefix_pair, own_pair = caches
      q, k, v = split(q), split(k), split(v)
      out = decode_attention(
        *(q, k, v, prefix_pair, own_pair, prefix_len, written),
        block=block,
        window=self.config.decoder.sliding_window,
      )
      return out.reshape(slots * branches, 1, *out.shape[2:]), (k, v)

    x = self.decoder.embed(ids.reshape(-1, 1), self.dtype)
    inputs: Any = (prefix, own)
    if isinstance(prefix, list):
      inputs = list(zip(prefix, own, strict=True))
    hidden, (keys, values) = self.decoder(
      x,
      positions.reshape(-1, 1, *positions.shape[2:]),
      attend,
      inputs=inputs,
    )
    return split(self.decoder.logits(hidden)), Cache(keys, values)


def _last(x: Array, prefix_len: Array) -> Array:
  """Of [B, P, ...] the entry of the last real token, [B, 1, ...]."""
  index = jnp.expand_dims(prefix_len - 1, tuple(range(1, x.ndim)))
  return jnp.take_along_axis(x, index, axis=1)


def _prefix_positions(given: Array | None, batch: int, length: int) -> Array:
  """int32[B, P], or the [B, P, 3] that were given."""
  if given is None:
    return jnp.broadcast_to(jnp.arange(length), (batch, length))
  return given


def _text_positions(positions: Array, prefix: Array) -> Array:
  """Text moves along all axes of the prefix alike."""
  if prefix.ndim == positions.ndim:
    return positions
  return jnp.repeat(positions[..., None], prefix.shape[-1], axis=-1)
