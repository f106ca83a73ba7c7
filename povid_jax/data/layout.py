"""Layouts: how a picture becomes tiles and image tokens.

A layout knows from a picture's size alone how many tiles and tokens it takes,
so that lengths are known before anything is decoded. What it packs is read on
the device by the function of the same name in models/pictures.py.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import cast

import jax
import numpy as np
from PIL import Image

from povid_jax.data.anyres import anyres
from povid_jax.data.image import Mode, Source, preprocess, size_of
from povid_jax.data.qwen_layout import native
from povid_jax.data.room import (
  Extent,
  Layout,
  Pictures,
  Size,
  cover,
  pad,
  total,
)
from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig

__all__ = [
  "Extent",
  "Layout",
  "Pictures",
  "Size",
  "Square",
  "check_noisy",
  "coarse",
  "cover",
  "measure_encoded",
  "of",
  "room_of",
  "sizes_of",
  "total",
]


def sizes_of(layout: Layout, sources: Sequence[Source]) -> list[Size]:
  """Size of each encoded picture of a row, from its header; an arbitrary size
  if the layout does not depend on it.

  Raises:
    UserError: a file is not a picture.
  """
  if layout.same_size:
    return [(1, 1)] * len(sources)
  names = [
    f"image {i}" if isinstance(source, bytes) else str(source)
    for i, source in enumerate(sources)
  ]
  return list(map(size_of, sources, names))


def measure_encoded(layout: Layout, sources: Sequence[Source]) -> list[Extent]:
  """Room of each encoded picture of a row; errors as those of `sizes_of`."""
  return layout.measure(sizes_of(layout, sources))


def coarse(extent: Extent) -> Extent:
  """Room for as many tiles or a few more, so that few shapes are compiled:
  at most 64 between a number of patches and its double."""
  step = 1 << max(0, extent.tiles.bit_length() - 7)
  return extent._replace(tiles=-(-extent.tiles // step) * step)


def room_of(
  layout: Layout, pictures: Sequence[Image.Image], multiple: int = 1
) -> Extent:
  """Room of the pictures of one row; tokens padded to a multiple."""
  room = coarse(total(layout.measure([picture.size for picture in pictures])))
  return room._replace(tokens=-(-room.tokens // multiple) * multiple)


def check_noisy(layout: Layout, clean: Size, noisy: Size) -> None:
  """Raises UserError if a noisy picture has another size than the clean one:
  both share one map from features to tokens.
  """
  if layout.same_size or clean == noisy:
    return
  raise UserError(
    f"the noisy picture has {noisy[0]}x{noisy[1]} pixels, the clean one "
    f"{clean[0]}x{clean[1]}; this model needs equal sizes"
  )


@dataclasses.dataclass(frozen=True)
class Square:
  """LLaVA-1.5's: one picture, one square of `size` pixels, `tokens` tokens."""

  size: int
  tokens: int
  mode: Mode = "pad"
  same_size = True
  position_axes = 0

  def measure(self, sizes: Sequence[Size]) -> list[Extent]:
    return [Extent(1, self.tokens)] * len(sizes)

  def cut(self, pictures: Sequence[Image.Image]) -> Pictures:
    squares = [preprocess(p, self.size, self.mode) for p in pictures]
    empty = np.zeros((0, self.size, self.size, 3), np.uint8)
    return Pictures(np.stack(squares) if squares else empty)

  def describe(self, extent: Extent) -> jax.ShapeDtypeStruct:
    shape = (extent.tiles, self.size, self.size, 3)
    return jax.ShapeDtypeStruct(shape, np.uint8)

  def pack(self, row: Pictures, extent: Extent) -> np.ndarray:
    return pad(row.pixels, extent.tiles)

  def positions(self, is_image: np.ndarray, sizes: Sequence[Size]) -> None:
    return None


def _square(config: LlavaConfig) -> Square:
  mode = cast(Mode, config.layout.mode)
  return Square(config.square_tower.image_size, config.image_tokens, mode)


_KINDS: dict[str, Callable[[LlavaConfig], Layout]] = {
  "square": _square,
  "anyres": anyres,
  "native": native,
}


def of(config: LlavaConfig) -> Layout:
  """The layout of a model."""
  return _KINDS[config.layout.kind](config)
