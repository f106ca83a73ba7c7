"""Layouts: how a picture becomes tiles and image tokens.

A layout knows from a picture's size alone how many tiles and tokens it takes,
so that lengths are known before anything is decoded. What it packs is read on
the device by the function of the same name in models/pictures.py.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import jax
import numpy as np
from PIL import Image

from povid_jax.data.anyres import anyres
from povid_jax.data.image import Mode, preprocess, size_of
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
from povid_jax.models.config import LlavaConfig

__all__ = [
  "Extent",
  "Layout",
  "Pictures",
  "Size",
  "Square",
  "cover",
  "measure_encoded",
  "of",
  "total",
]


def measure_encoded(
  layout: Layout, sources: Sequence[bytes | str | Path]
) -> list[Extent]:
  """Room of each encoded picture of a row, by its header.

  Raises:
    UserError: a file that is no picture.
  """
  if layout.same_size:
    return layout.measure([(1, 1)] * len(sources))
  names = [
    f"image {i}" if isinstance(source, bytes) else str(source)
    for i, source in enumerate(sources)
  ]
  return layout.measure(list(map(size_of, sources, names)))


@dataclasses.dataclass(frozen=True)
class Square:
  """LLaVA-1.5's: one picture, one square of `size` pixels, `tokens` tokens."""

  size: int
  tokens: int
  mode: Mode = "pad"
  same_size = True

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
