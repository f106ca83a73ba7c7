"""The interface of a picture layout: room, arrays, positions."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

Size = tuple[int, int]  # width, height in pixels, as Pillow has it


class Extent(NamedTuple):
  """Room that pictures take.

  Attributes:
    tiles: squares that the tower sees; patches where pictures keep their
      size.
    tokens: image tokens in the prefix.
    taps: features that an image token is made of at most.
  """

  tiles: int
  tokens: int
  taps: int = 1


def total(parts: Sequence[Extent]) -> Extent:
  """Room of all pictures of one row."""
  return Extent(
    sum(part.tiles for part in parts),
    sum(part.tokens for part in parts),
    max((part.taps for part in parts), default=1),
  )


def cover(rows: Sequence[Extent]) -> Extent:
  """The least room in which each of these rows fits."""
  return Extent(*map(max, zip(*rows, strict=True))) if rows else Extent(0, 0)


class Pictures(NamedTuple):
  """All pictures of one row, cut.

  Attributes:
    pixels: uint8[t, S, S, 3].
    index: int32[m, J], the token map; None where tokens are the features.
    weight: float32[m, J], or None where J = 1.
  """

  pixels: np.ndarray
  index: np.ndarray | None = None
  weight: np.ndarray | None = None


class Layout(Protocol):
  """From pictures to arrays.

  Attributes:
    same_size: every picture takes the same room, whatever its size.
    position_axes: 3 where `positions` gives something, else 0.
  """

  same_size: bool
  position_axes: int

  def measure(self, sizes: Sequence[Size]) -> list[Extent]:
    """Room of each picture of a row, from their sizes alone."""
    ...

  def cut(self, pictures: Sequence[Image.Image]) -> Any:
    """The RGB pictures of one row as arrays."""
    ...

  def describe(self, extent: Extent) -> Any:
    """Shapes and dtypes (jax.ShapeDtypeStruct) of the arrays of one row."""
    ...

  def pack(self, row: Any, extent: Extent) -> Any:
    """The arrays of one row that the model takes, padded to `extent`."""
    ...

  def positions(
    self, is_image: np.ndarray, sizes: Sequence[Size]
  ) -> tuple[np.ndarray, int] | None:
    """Where the tokens of a prefix are, if that is more than their index.

    Args:
      is_image: bool[p], image tokens of the prefix.
      sizes: of its pictures, in order.

    Returns:
      int32[p, 3] and the position of what follows the prefix; None where
      tokens are counted.
    """
    ...


def pad(array: np.ndarray, length: int) -> np.ndarray:
  """[length, ...]: an array with zeros behind it."""
  out = np.zeros((length, *array.shape[1:]), array.dtype)
  out[: len(array)] = array
  return out
