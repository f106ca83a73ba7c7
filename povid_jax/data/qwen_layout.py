"""Pictures at their own size: patches, windows and positions of Qwen2.5-VL.

All of it follows from a picture's size, on the host. What the arrays mean is
said in models/qwen_vision.py, which reads them.

Sources: arXiv 2502.13923; transformers' Pillow image processor of Qwen2-VL
(sizes, patches) and `get_rope_index` (positions), which tests compare with.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from povid_jax.data.room import Extent, Size, pad
from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig, QwenVisionConfig

_LONGEST = 200  # times its width is a picture's most height, and the reverse


class Patches(NamedTuple):
  """The pictures of one row, cut.

  pixels uint8[l, p * p * 3], position int32[l, 2], window int32[l], picture
  int32[l] and index int32[l / merged], see models/qwen_vision.py.
  """

  pixels: np.ndarray
  position: np.ndarray
  window: np.ndarray
  picture: np.ndarray
  index: np.ndarray


@dataclasses.dataclass(frozen=True)
class Native:
  """Every picture at about its own size, in whole image tokens.

  Attributes:
    patch: pixels of a patch's edge.
    merge: patches along the edge of an image token.
    window: image tokens along the edge of an attention window.
    min_pixels, max_pixels: smaller pictures are enlarged, larger ones shrunk.
  """

  patch: int = 14
  merge: int = 2
  window: int = 4
  min_pixels: int = 56 * 56
  max_pixels: int = 12_845_056
  same_size = False
  position_axes = 3

  def measure(self, sizes: Sequence[Size]) -> list[Extent]:
    """Room of each picture; `tiles` are patches."""
    counts = [math.prod(self.grid(size)) for size in sizes]
    return [Extent(count * self.merge**2, count) for count in counts]

  def grid(self, size: Size) -> tuple[int, int]:
    """(rows, columns) of image tokens of a picture.

    Raises:
      UserError: a strip more than 200 times as long as it is wide.
    """
    width, height = size
    if max(size) > _LONGEST * min(size):
      raise UserError(
        f"a picture of {width}x{height} pixels is too long for its width; "
        f"want at most {_LONGEST} to 1"
      )
    edge = self.patch * self.merge
    rows, columns = round(height / edge), round(width / edge)
    area = rows * columns * edge * edge
    if area > self.max_pixels:
      shrink = math.sqrt(height * width / self.max_pixels)
      fit = lambda length: max(1, math.floor(length / shrink / edge))
      return fit(height), fit(width)
    if area < self.min_pixels:
      grow = math.sqrt(self.min_pixels / (height * width))
      fit = lambda length: math.ceil(length * grow / edge)
      return fit(height), fit(width)
    return rows, columns

  def order(self, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """How image tokens lie in windows.

    Returns:
      int[n] the tokens (in reading order) window by window, and int[n] the
      number of the window, from 0, of each of them.
    """
    rows, columns = grid
    across = -(-columns // self.window)
    y, x = np.mgrid[:rows, :columns]
    windows = (y // self.window * across + x // self.window).reshape(-1)
    order = np.argsort(windows, kind="stable")
    return order, windows[order]

  def pixels(self, picture: Image.Image) -> np.ndarray:
    """uint8[rows, columns, merge * merge, p * p * 3] of an RGB picture.

    The patches of a token are in reading order, a patch is [p, p, 3].
    """
    rows, columns = self.grid(picture.size)
    m, p = self.merge, self.patch
    new = (columns * m * p, rows * m * p)
    resized = np.asarray(picture.resize(new, Image.Resampling.BICUBIC))
    cut = resized.reshape(rows, m, p, columns, m, p, 3)
    return cut.transpose(0, 3, 1, 4, 2, 5, 6).reshape(rows, columns, m * m, -1)

  def _positions(self, grid: tuple[int, int]) -> np.ndarray:
    """int[n, merge * merge, 2]: row and column of each patch, by token."""
    m = self.merge
    y, x = np.mgrid[: grid[0] * m, : grid[1] * m]
    both = np.stack([y, x], axis=-1)
    both = both.reshape(grid[0], m, grid[1], m, 2).transpose(0, 2, 1, 3, 4)
    return both.reshape(-1, m * m, 2)

  def one(self, picture: Image.Image) -> Patches:
    """A row of one picture: number 1, its windows from 1."""
    grid = self.grid(picture.size)
    order, windows = self.order(grid)
    each = self.merge**2
    pixels = self.pixels(picture).reshape(len(order), each, -1)[order]
    index = np.empty(len(order), np.int32)
    index[order] = np.arange(len(order))
    return Patches(
      pixels.reshape(len(order) * each, -1),
      self._positions(grid)[order].reshape(-1, 2).astype(np.int32),
      np.repeat(windows + 1, each).astype(np.int32),
      np.ones(len(order) * each, np.int32),
      index,
    )

  def cut(self, pictures: Sequence[Image.Image]) -> Patches:
    """The RGB pictures of one row, one behind the other."""
    parts = [self.one(picture) for picture in pictures]
    width = self.patch**2 * 3
    if not parts:
      none = np.zeros(0, np.int32)
      empty = np.zeros((0, width), np.uint8)
      return Patches(empty, none.reshape(0, 2), none, none, none)
    moved, windows, tokens = [], 0, 0
    for number, part in enumerate(parts):
      moved.append(
        part._replace(
          window=part.window + windows,
          picture=part.picture + number,
          index=part.index + tokens,
        )
      )
      windows += int(part.window.max())
      tokens += len(part.index)
    return Patches(*map(np.concatenate, zip(*moved, strict=True)))

  def _lengths(self, extent: Extent) -> dict[str, int]:
    # windows are looked for in blocks of patches of the largest
    block = (self.window * self.merge) ** 2
    patches = -(-extent.tiles // block) * block
    return dict.fromkeys(Patches._fields, patches) | {"index": extent.tokens}

  def describe(self, extent: Extent) -> dict[str, jax.ShapeDtypeStruct]:
    empty = self.cut([])._asdict()
    return {
      name: jax.ShapeDtypeStruct((n, *empty[name].shape[1:]), empty[name].dtype)
      for name, n in self._lengths(extent).items()
    }

  def pack(self, row: Patches, extent: Extent) -> dict[str, np.ndarray]:
    lengths = self._lengths(extent)
    return {name: pad(x, lengths[name]) for name, x in row._asdict().items()}

  def positions(
    self, is_image: np.ndarray, sizes: Sequence[Size]
  ) -> tuple[np.ndarray, int]:
    return positions(is_image, [self.grid(size) for size in sizes])


def positions(
  is_image: np.ndarray, grids: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, int]:
  """M-RoPE positions of a prefix (arXiv 2409.12191).

  A token of text has three equal numbers. Image tokens of one picture share
  the first and have their row and column as the others, counted from it. Text
  goes on behind the largest of them.

  Args:
    is_image: bool[p], where image tokens are.
    grids: (rows, columns) of image tokens of each picture, in order.

  Returns:
    int32[p, 3], and the position of what follows the prefix.
  """
  out = np.empty((len(is_image), 3), np.int32)
  here = place = 0
  for rows, columns in grids:
    start = place + int(np.argmax(is_image[place:]))
    out[place:start] = np.arange(here, here + start - place)[:, None]
    here += start - place
    y, x = np.mgrid[:rows, :columns]
    place = start + rows * columns
    grid = np.stack([np.zeros_like(y), y, x], axis=-1).reshape(-1, 3)
    out[start:place] = here + grid
    here += max(rows, columns)
  rest = len(is_image) - place
  out[place:] = np.arange(here, here + rest)[:, None]
  return out, here + rest


def native(config: LlavaConfig) -> Native:
  """The layout of a model whose pictures keep their size."""
  layout, vision = config.layout, config.vision
  assert isinstance(vision, QwenVisionConfig)
  return Native(
    patch=vision.patch_size,
    merge=vision.merge_size,
    window=vision.window_size // (vision.patch_size * vision.merge_size),
    min_pixels=layout.min_pixels,
    max_pixels=layout.max_pixels,
  )
