"""Pictures of a batch to image tokens, one function for each kind of layout.

What a layout packs (data/layout.py) is an array or a dict of arrays [B, ...]:

  square  uint8[B, I, S, S, 3], I pictures of a row
  anyres  pixels  uint8[B, T, S, S, 3], the tiles of all pictures of a row
          index   int32[B, M, J], for each image token the J features that it
                  is made of, counted over the tiles; -1 is the newline
          weight  float32[B, M, J], their shares; left out where J = 1
  native  see models/qwen_vision.py

A picture that noise was put on has the same map: only its pixels come along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from povid_jax.models.partition import by_batch
from povid_jax.models.vit import normalise

if TYPE_CHECKING:
  from povid_jax.models.llava import Llava

Array = jax.Array
Images = Array | Mapping[str, Array]
Noise = tuple[Array, Array] | None
Encoder = Callable[["Llava", Images, Noise, bool], Array]

# Tiles that the tower sees at a time: its attention keeps float32 squares, 34
# MB a tile for SigLIP, and 16 rows of 37 tiles would need 20 GB of them.
TILES_AT_A_TIME = 16


def pixels_of(images: Images) -> Array:
  """The part that noise is put on: uint8[B, T, ...]."""
  return images["pixels"] if isinstance(images, Mapping) else images


def with_pixels(images: Images, pixels: Array) -> Images:
  """The same pictures with other pixels."""
  if isinstance(images, Mapping):
    return {**images, "pixels": pixels}
  return pixels


def _features(
  model: Llava, pixels: Array, noise: Noise, adapter: bool
) -> Array:
  """uint8[B, I, S, S, 3] to projected features float[B, I, n, D]."""
  vision = model.config.vision
  values = normalise(pixels, vision.mean, vision.std)
  if noise is not None:
    scale, eps = noise
    values = scale[0] * values + scale[1] * eps
  values = values.reshape(-1, *pixels.shape[2:]).astype(model.dtype)
  features = model.projector(model.vision(values, adapter), adapter)
  return features.reshape(*pixels.shape[:2], *features.shape[1:])


def _empty(model: Llava, batch: int) -> Array:
  return jnp.zeros((batch, 0, model.config.decoder.hidden_size), model.dtype)


def squares(model: Llava, images: Images, noise: Noise, adapter: bool) -> Array:
  """Image tokens float[B, I * n, D] of square pictures."""
  pixels = pixels_of(images)
  if pixels.shape[1] == 0:
    return _empty(model, pixels.shape[0])
  features = _features(model, pixels, noise, adapter)
  return features.reshape(pixels.shape[0], -1, features.shape[-1])


def chunk_of(rows: int, tiles: int) -> int:
  """Tiles of each row that the tower sees at a time; divides `tiles`."""
  most = max(1, TILES_AT_A_TIME // rows)
  return max(k for k in range(1, tiles + 1) if tiles % k == 0 and k <= most)


def _in_chunks(
  model: Llava, pixels: Array, noise: Noise, adapter: bool
) -> Array:
  """`_features` of few tiles at a time; rows stay on their devices."""
  batch, tiles = pixels.shape[:2]
  chunk = chunk_of(batch, tiles)
  if chunk == tiles:
    return _features(model, pixels, noise, adapter)

  def cut(x: Array) -> Array:  # [T / k, B, k, ...]
    x = x.reshape(batch, tiles // chunk, chunk, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  def one(part: tuple[Array, Array | None]) -> Array:
    pixels, eps = part
    given = None if noise is None or eps is None else (noise[0], eps)
    return _features(model, pixels, given, adapter)

  if model.remat != "none":
    one = jax.checkpoint(one)
  parts = (cut(pixels), None if noise is None else cut(noise[1]))
  features = jnp.moveaxis(jax.lax.map(one, parts), 0, 1)
  return features.reshape(batch, tiles, *features.shape[3:])


def tiles(model: Llava, images: Images, noise: Noise, adapter: bool) -> Array:
  """Image tokens float[B, M, D] of pictures cut into tiles."""
  assert isinstance(images, Mapping) and model.image_newline is not None
  pixels, index = images["pixels"], images["index"]
  batch, count = pixels.shape[:2]
  if count == 0:
    return _empty(model, batch)
  features = _in_chunks(model, pixels, noise, adapter)
  features = features.reshape(batch, -1, features.shape[-1])
  newline = model.image_newline[...].astype(features.dtype)
  newline = jnp.broadcast_to(newline, (batch, 1, newline.shape[-1]))
  table = by_batch(jnp.concatenate([features, newline], axis=1))
  index = jnp.where(index < 0, table.shape[1] - 1, index)
  taps = index.shape[-1]
  found = jnp.take_along_axis(table, index.reshape(batch, -1, 1), axis=1)
  if taps == 1:
    return found
  found = found.reshape(batch, -1, taps, found.shape[-1])
  weight = images["weight"][..., None]
  return (found.astype(jnp.float32) * weight).sum(axis=2).astype(table.dtype)


def patches(model: Llava, images: Images, noise: Noise, adapter: bool) -> Array:
  """Image tokens float[B, M, D] of pictures at their own size."""
  assert isinstance(images, Mapping)
  pixels, vision = images["pixels"], model.config.vision
  if pixels.shape[1] == 0:
    return _empty(model, pixels.shape[0])
  coloured = pixels.reshape(*pixels.shape[:2], -1, 3)
  values = normalise(coloured, vision.mean, vision.std).reshape(pixels.shape)
  if noise is not None:
    scale, eps = noise
    values = scale[0] * values + scale[1] * eps
  features = model.vision(values.astype(model.dtype), images, adapter)
  tokens = by_batch(model.projector(features, adapter))
  index = images["index"][..., None]
  return jnp.take_along_axis(tokens, index, axis=1)


ENCODERS: dict[str, Encoder] = {
  "square": squares,
  "anyres": tiles,
  "native": patches,
}
