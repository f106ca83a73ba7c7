"""The layout of LLaVA-NeXT and LLaVA-OneVision: a picture cut into tiles.

The arithmetic is that of LLaVA-VL/LLaVA-NeXT (mm_utils.py, llava_arch.py) as
transformers has it.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from povid_jax.data.image import BACKGROUND, preprocess, squash
from povid_jax.data.room import Extent, Pictures, Size, pad
from povid_jax.models.config import LlavaConfig

NEWLINE = -1  # in a token map: the vector that ends a row


@dataclasses.dataclass(frozen=True)
class AnyRes:
  """The picture squashed to one tile, then the picture fitted into the pinpoint
  that keeps most of it, padded with black and cut row by row. Tokens: those of
  the first tile, then the grid of the others without what shows padding only,
  a newline behind each of its rows.

  Attributes:
    tile: pixels of a tile's edge.
    side: features along a tile's edge.
    pinpoints: (height, width) of canvases, the first of equals is taken.
    max_tiles: a larger grid is shrunk to about this many tiles; 0: none is.
    squares: several pictures in one row are not cut, each is one square,
      padded with `background`, and one newline.
    rounds: sizes are rounded at the seventh digit before they are cut off.
  """

  tile: int
  side: int
  pinpoints: tuple[tuple[int, int], ...]
  max_tiles: int = 0
  squares: bool = False
  rounds: bool = True
  background: tuple[int, int, int] = BACKGROUND
  same_size = False
  position_axes = 0

  def best(self, size: Size) -> tuple[int, int]:
    """(height, width) of the canvas that a picture is fitted into."""
    width, height = size
    best, most, least = self.pinpoints[0], 0, math.inf
    for h, w in self.pinpoints:
      scale = min(w / width, h / height)
      kept = int(width * scale) * int(height * scale)
      kept = min(kept, width * height)
      waste = h * w - kept
      if kept > most or (kept == most and waste < least):
        best, most, least = (h, w), kept, waste
    return best

  def _grid(self, size: Size) -> tuple[slice, slice]:
    """Rows and columns of the canvas's features that show the picture."""
    (width, height), (h, w) = size, self.best(size)
    rows, columns = h // self.tile * self.side, w // self.tile * self.side
    whole = lambda x: int(round(x, 7)) if self.rounds else int(x)
    if width / height > columns / rows:
      cut = (rows - whole(height * (columns / width))) // 2
      return slice(cut, rows - cut), slice(0, columns)
    cut = (columns - whole(width * (rows / height))) // 2
    return slice(0, rows), slice(cut, columns - cut)

  def _shrunk(self, h: int, w: int) -> tuple[int, int] | None:
    """Size of the grid after shrinking, or None where it stays."""
    if not self.max_tiles:
      return None
    ratio = math.sqrt(h * w / (self.max_tiles * self.side**2))
    return (int(h // ratio), int(w // ratio)) if ratio > 1.1 else None

  def measure(self, sizes: Sequence[Size]) -> list[Extent]:
    if self.squares and len(sizes) > 1:
      return [Extent(1, self.side**2 + 1)] * len(sizes)
    return [self._extent(size) for size in sizes]

  def _extent(self, size: Size) -> Extent:
    height, width = self.best(size)
    rows, columns = self._grid(size)
    h, w = rows.stop - rows.start, columns.stop - columns.start
    smaller = self._shrunk(h, w)
    h, w = smaller or (h, w)
    tiles = 1 + height * width // self.tile**2
    return Extent(tiles, self.side**2 + h * (w + 1), 4 if smaller else 1)

  def token_map(self, size: Size) -> tuple[np.ndarray, np.ndarray | None]:
    """(index int32[m, J], weight float32[m, J] or None) of one picture.

    An index counts features over the picture's tiles; J is 4 where the grid
    is shrunk (bilinear, corners not aligned, no antialiasing).
    """
    s = self.side
    rows, columns = self._grid(size)
    across = self.best(size)[1] // self.tile  # tiles
    y, x = np.mgrid[rows, columns]
    tile = 1 + y // s * across + x // s
    grid = tile * s * s + y % s * s + x % s
    smaller = self._shrunk(*grid.shape)
    if smaller is None:
      index = np.pad(grid, ((0, 0), (0, 1)), constant_values=NEWLINE)
      index = np.concatenate([np.arange(s * s), index.reshape(-1)])
      return index[:, None].astype(np.int32), None
    near = [_taps(n, out) for n, out in zip(grid.shape, smaller, strict=True)]
    (y, fy), (x, fx) = near
    index = grid[y[:, None, :, None], x[None, :, None, :]]  # [h, w, 2, 2]
    weight = fy[:, None, :, None] * fx[None, :, None, :]
    index = index.reshape(*smaller, 4)
    weight = weight.reshape(*smaller, 4)
    end = ((0, 0), (0, 1), (0, 0))
    index = np.pad(index, end, constant_values=NEWLINE).reshape(-1, 4)
    weight = np.pad(weight, end).reshape(-1, 4)
    base = np.repeat(np.arange(s * s)[:, None], 4, axis=1)
    index = np.concatenate([base, index]).astype(np.int32)
    weight = np.concatenate([np.zeros((s * s, 4)), weight]).astype(np.float32)
    alone = (weight == 0).all(axis=1)  # base and newlines: one feature each
    weight[alone, 0] = 1
    return index, weight

  def tiles(self, picture: Image.Image) -> np.ndarray:
    """uint8[1 + rows * columns, S, S, 3]: the squashed picture, then tiles."""
    t, (height, width) = self.tile, self.best(picture.size)
    new = self._fit(picture.size)
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - new[1]) // 2, (width - new[0]) // 2
    canvas[top : top + new[1], left : left + new[0]] = squash(picture, new)
    cut = canvas.reshape(height // t, t, width // t, t, 3)
    cut = cut.transpose(0, 2, 1, 3, 4).reshape(-1, t, t, 3)
    return np.concatenate([squash(picture, (t, t))[None], cut])

  def _fit(self, size: Size) -> Size:
    (width, height), (h, w) = size, self.best(size)
    if w / width < h / height:
      return w, min(math.ceil(height * (w / width)), h)
    return min(math.ceil(width * (h / height)), w), h

  def cut(self, pictures: Sequence[Image.Image]) -> Pictures:
    if self.squares and len(pictures) > 1:
      pixels = [
        preprocess(p, self.tile, "pad", self.background)[None] for p in pictures
      ]
      one = np.append(np.arange(self.side**2), NEWLINE).astype(np.int32)
      maps = [(one[:, None], None)] * len(pictures)
    else:
      pixels = [self.tiles(picture) for picture in pictures]
      maps = [self.token_map(picture.size) for picture in pictures]
    if not pictures:
      pixels = [np.zeros((0, self.tile, self.tile, 3), np.uint8)]
      maps = [(np.zeros((0, 1), np.int32), None)]
    return Pictures(np.concatenate(pixels), *self._join(pixels, maps))

  def _join(
    self,
    pixels: Sequence[np.ndarray],
    maps: Sequence[tuple[np.ndarray, np.ndarray | None]],
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """One map of all pictures of a row, counted over all their tiles."""
    taps = max(index.shape[1] for index, _ in maps)
    first, indices, weights = 0, [], []
    for cut, (index, weight) in zip(pixels, maps, strict=True):
      index = np.where(index == NEWLINE, NEWLINE, index + first)
      first += len(cut) * self.side**2
      indices.append(_widen(index, taps))
      weights.append(_weight_of(index, weight, taps))
    weight = np.concatenate(weights) if taps > 1 else None
    return np.concatenate(indices).astype(np.int32), weight

  def describe(self, extent: Extent) -> dict[str, jax.ShapeDtypeStruct]:
    of, t = jax.ShapeDtypeStruct, self.tile
    made = {
      "pixels": of((extent.tiles, t, t, 3), np.uint8),
      "index": of((extent.tokens, extent.taps), np.int32),
    }
    if extent.taps > 1:
      made["weight"] = of((extent.tokens, extent.taps), np.float32)
    return made

  def pack(self, row: Pictures, extent: Extent) -> dict[str, np.ndarray]:
    assert row.index is not None
    index = _widen(row.index, extent.taps)
    # unused places point at feature 0 and are never asked for
    packed = {
      "pixels": pad(row.pixels, extent.tiles),
      "index": pad(index, extent.tokens),
    }
    if extent.taps > 1:
      weight = _weight_of(row.index, row.weight, extent.taps)
      packed["weight"] = pad(weight, extent.tokens)
    return packed

  def positions(self, is_image: np.ndarray, sizes: Sequence[Size]) -> None:
    return None


def _widen(index: np.ndarray, taps: int) -> np.ndarray:
  """int32[m, taps]; the features that are added weigh nothing."""
  return np.pad(index, ((0, 0), (0, taps - index.shape[1])), mode="edge")


def _weight_of(
  index: np.ndarray, weight: np.ndarray | None, taps: int
) -> np.ndarray:
  """float32[m, taps]; without weights the first feature has all."""
  if weight is None:
    weight = np.zeros(index.shape, np.float32)
    weight[:, :1] = 1
  return np.pad(weight, ((0, 0), (0, taps - weight.shape[1])))


def _taps(count: int, out: int) -> tuple[np.ndarray, np.ndarray]:
  """The two neighbours int[out, 2] of each new place and their shares.

  In float32, as torch's `interpolate` computes them.
  """
  scale, half = np.float32(count / out), np.float32(0.5)
  place = (np.arange(out, dtype=np.float32) + half) * scale - half
  place = np.maximum(place, np.float32(0))
  low = np.minimum(place.astype(np.int64), count - 1)
  high = np.minimum(low + 1, count - 1)
  share = (place - low).astype(np.float32)
  return np.stack([low, high], 1), np.stack([1 - share, share], 1)


def anyres(config: LlavaConfig) -> AnyRes:
  """The layout of a model's config."""
  layout, vision = config.layout, config.square_tower
  original = layout.reader == "original"
  pinpoints = layout.pinpoints
  if original:
    pinpoints = tuple((h, w) for w, h in pinpoints)
  red, green, blue = (int(255 * mean) for mean in vision.mean)
  return AnyRes(
    tile=vision.image_size,
    side=vision.side,
    pinpoints=pinpoints,
    max_tiles=layout.max_tiles,
    squares=layout.several == "square",
    rounds=not original,
    background=(red, green, blue),
  )
