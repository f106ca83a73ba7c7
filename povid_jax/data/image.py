"""Pictures decoded, squared, resized; uint8 throughout.

The floats (scaling, mean, standard deviation) are left to the device: see
models/vit.py.
"""

import contextlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from povid_jax.data.picture import Picture
from povid_jax.errors import UserError

Colour = tuple[int, int, int]
BACKGROUND = (122, 116, 104)  # CLIP's mean in bytes, rounded down

Mode = Literal["pad", "resize"]

_TAIL = 4096  # bytes at the end of a file in which its end mark is looked for

# A tall picture is squared in bands of rows of about this many pixels, so that
# a long strip never needs a canvas of its length squared.
_BAND_PIXELS = 4_000_000
_MAX_CANVAS = 150_000_000  # pixels, under half a gigabyte


Source = bytes | str | Path | Picture


def source_name(source: Source, name: str | None = None) -> str:
  """The name of a picture in messages: `name`, else its whole path."""
  if name is not None:
    return name
  if isinstance(source, Picture) and source.is_file and source.folder:
    return f"{source.folder}/{source.name}"
  return "image bytes" if isinstance(source, bytes) else str(source)


def _to_rgb(image: Image.Image) -> Image.Image:
  transparency = image.info.get("transparency")
  if image.mode == "P" and isinstance(transparency, bytes):
    # a conversion to the same colours without Pillow's warning
    image = image.convert("RGBA")
  return image.convert("RGB")


@contextlib.contextmanager
def _opened(source: Source, name: str | None) -> Iterator[Image.Image]:
  """Opens a picture and reads its header; every error becomes a UserError."""
  label = source_name(source, name)
  if isinstance(source, Picture):
    source = source.read()
  try:
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(file) as image:
      limit = Image.MAX_IMAGE_PIXELS
      if limit and image.width * image.height > limit:
        raise Image.DecompressionBombError(f"{image.width}x{image.height}")
      yield image
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
    raise UserError(
      f"{label}: refused, because it decodes to more than "
      f"{Image.MAX_IMAGE_PIXELS:,} pixels; want an ordinary photograph"
    ) from e
  except FileNotFoundError as e:
    raise UserError(f"{label}: no such file") from e
  except Exception as e:  # decoders raise errors of many types on broken input
    reason = "not a picture" if "cannot identify" in str(e) else f"broken: {e}"
    raise UserError(f"{label}: {reason}; want JPEG, PNG or WebP") from e


def size_of(source: Source, name: str | None = None) -> tuple[int, int]:
  """(width, height) from the header alone; errors as those of `open_image`."""
  with _opened(source, name) as image:
    return image.size


def open_image(source: Source, name: str | None = None) -> Image.Image:
  """Decodes a picture to RGB the way LLaVA does.

  Orientation tags (EXIF) are ignored, as LLaVA ignores them: a photograph that
  a viewer would turn stays as it is stored. Alpha is dropped, not blended (the
  processors of transformers 5 blend it over white).

  Args:
    source: an encoded picture, the path of one, or a sample's.
    name: what error messages call the picture; the path if not given.

  Raises:
    UserError: not a picture, a broken or truncated one, one that cannot be
      read, or one with more pixels than Pillow's limit against bombs.
  """
  with _opened(source, name) as image:
    return _to_rgb(image)


def is_complete(data: bytes, kind: str) -> bool:
  """Whether a JPEG, PNG or WebP has its end mark: detects truncated files
  without decoding them.
  """
  if kind == "JPEG":
    return b"\xff\xd9" in data[-_TAIL:]
  if kind == "PNG":
    return b"IEND" in data[-_TAIL:]
  return len(data) >= 8 + struct.unpack("<I", data[4:8])[0]


def _pad_sideways(
  image: Image.Image, width: int, size: int, background: Colour
) -> Image.Image:
  """Pads to `width` left and right and resizes the width alone to `size`."""
  rows = max(1, _BAND_PIXELS // width)
  out = Image.new("RGB", (size, image.height))
  left = (width - image.width) // 2
  for top in range(0, image.height, rows):
    bottom = min(top + rows, image.height)
    band = Image.new("RGB", (width, bottom - top), background)
    band.paste(image.crop((0, top, image.width, bottom)), (left, 0))
    band = band.resize((size, bottom - top), Image.Resampling.BICUBIC)
    out.paste(band, (0, top))
  return out


def _check_strip(image: Image.Image, pixels: int) -> None:
  """Refuses very long strips: one of a million pixels by one needs gigabytes
  while it is resized.
  """
  if pixels > _MAX_CANVAS:
    raise UserError(
      f"a picture of {image.width}x{image.height} pixels is too long for its "
      "width; want an ordinary photograph"
    )


def _pad(image: Image.Image, size: int, background: Colour) -> Image.Image:
  """Pads to a square with one colour, then resizes to size x size.

  Pillow resizes in two passes, across and then down, and rounds to bytes in
  between. The passes are made apart here: rows are independent in the first,
  and rows of one colour keep it, so they need not go through it. The bytes are
  those of the plain way (a test compares) without its square canvas.
  """
  width, height = image.size
  _check_strip(image, max(width, height) * size)
  if width < height:
    across = _pad_sideways(image, height, size, background)
  else:
    across = image.resize((size, height), Image.Resampling.BICUBIC)
  square = Image.new("RGB", (size, max(width, height)), background)
  square.paste(across, (0, (square.height - height) // 2))
  return square.resize((size, size), Image.Resampling.BICUBIC)


def squash(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
  """A picture resized to (width, height), whatever its own shape: uint8.

  Raises:
    UserError: a strip so long that it would need gigabytes.
  """
  _check_strip(image, image.height * size[0])  # after Pillow's first pass
  return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def _resize(image: Image.Image, size: int) -> Image.Image:
  """Resizes the shortest edge to `size` and cuts the centre out."""
  width, height = image.size
  short = min(width, height)
  new = (int(size * width / short), int(size * height / short))
  _check_strip(image, new[0] * new[1])
  image = image.resize(new, Image.Resampling.BICUBIC)
  left, top = (new[0] - size) // 2, (new[1] - size) // 2
  return image.crop((left, top, left + size, top + size))


def preprocess(
  image: Image.Image,
  size: int,
  mode: Mode = "pad",
  background: Colour = BACKGROUND,
) -> np.ndarray:
  """A square picture, equal to what CLIPImageProcessor makes with Pillow.

  Args:
    image: RGB, any size.
    size: edge of the result in pixels, 336 for LLaVA-1.5.
    mode: "pad" pads to a square with the mean colour first (LLaVA-1.5);
      "resize" does not, and cuts the centre out.
    background: colour of the padding.

  Returns:
    uint8[size, size, 3].

  Raises:
    UserError: a mode that does not exist, or a strip so long that it would
      need gigabytes.
  """
  if mode not in ("pad", "resize"):
    raise UserError(f"image mode {mode!r}: want 'pad' or 'resize'")
  if mode == "resize":
    return np.array(_resize(image, size))
  return np.array(_pad(image, size, background))
