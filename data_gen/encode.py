"""From a sample to the record that is stored: every check, and the noise.

Everything here is a pure function of the sample, the picture's bytes and the
options, so that the local writer and Beam write the same bytes.
"""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from povid_jax.data import noise, pairs
from povid_jax.data.image import is_complete, open_image
from povid_jax.data.pairs import Sample, noisy_pictures
from povid_jax.data.records import Record
from povid_jax.data.samples import Layout
from povid_jax.errors import UserError

_CHECKED = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True)
class Options:
  """The options that determine the bytes of a record."""

  pairs: str
  image_dir: str | None
  seed: int = 0
  split: str = "train"
  val_fraction: float = 0.0
  shards: int | None = None
  store_noisy: bool = False
  noise_step: int = 500
  overflow: noise.Overflow = "wrap"
  verify: str = "header"
  on_bad_sample: str = "raise"
  format: str | None = None
  columns: str | None = None
  pairs_per_row: int = 1

  @property
  def layout(self) -> Layout:
    return Layout(self.image_dir, self.format, self.columns)


def check_turns(sample: Sample) -> None:
  """Refuses a conversation that cannot be trained on.

  Raises:
    UserError: `<image>` missing, too often, without a picture or inside an
      answer; chosen and rejected alike.
  """
  asked = sum(turn.count("<image>") for turn in sample.turns[::2])
  pictures = len(sample.images)
  if asked != pictures:
    raise UserError(
      f"conversations contain <image> {asked} times, but the field image "
      f"lists {pictures} pictures; want one <image> for each picture"
    )
  answers = sample.turns[1::2] + (sample.rejected or ())[1::2]
  others = [*(m.turns for m in sample.more_rejected), *sample.more_chosen]
  answers += tuple(answer for turns in others for answer in turns[1::2])
  if any("<image>" in answer for answer in answers):
    raise UserError(
      "an answer contains <image>; this marker is allowed only in human turns"
    )
  if sample.context and sample.turns[1:-2:2] != (sample.rejected or ())[1:-2:2]:
    raise UserError(
      "it has a context, and its answers differ before the last turn; with a "
      "context only the last answers may differ"
    )
  every = sample.every_chosen
  alike = any(more.turns == every[more.of] for more in sample.more_rejected)
  if alike or sample.turns == sample.rejected:
    raise UserError(
      "rejected_conversations is equal to conversations: a pair of equal "
      "answers teaches nothing; remove the sample"
    )


def check_picture(data: bytes, label: str) -> None:
  """Header, size and end of a picture; decodes it only when in doubt.

  Raises:
    UserError: not a picture, truncated, or too many pixels.
  """
  try:
    with Image.open(BytesIO(data), formats=_CHECKED) as image:
      small = image.width * image.height <= (Image.MAX_IMAGE_PIXELS or 0)
      sound = small and is_complete(data, image.format or "")
  except Exception:  # Pillow raises many kinds; open_image names the fault
    sound = False
  if not sound:
    open_image(data, label)


def stored_png(pixels: np.ndarray) -> bytes:
  """A PNG without compression, for noise, which nothing makes smaller.

  Noise of step 500 that wraps has 8.00 bits of entropy per byte: lossless
  WebP gives the same size in 15 times the time, and reads 8 times slower.

  Args:
    pixels: uint8[H, W, 3].
  """
  height, width, _ = pixels.shape
  rows = np.zeros((height, 1 + 3 * width), np.uint8)  # filter 0 before each
  rows[:, 1:] = pixels.reshape(height, -1)

  def chunk(kind: bytes, data: bytes) -> list[bytes]:
    crc = zlib.crc32(data, zlib.crc32(kind))
    return [struct.pack(">I", len(data)), kind, data, struct.pack(">I", crc)]

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return b"".join(
    [
      b"\x89PNG\r\n\x1a\n",
      *chunk(b"IHDR", header),
      *chunk(b"IDAT", zlib.compress(rows.data, 0)),
      *chunk(b"IEND", b""),
    ]
  )


def noisy_picture(
  data: bytes, label: str, step: int, seed: int, overflow: noise.Overflow
) -> bytes:
  """The distorted twin at full resolution, lossless."""
  pixels = np.asarray(open_image(data, label))
  return stored_png(noise.distort(pixels, step, seed, overflow))


def _own_noise(sample: Sample, options: Options) -> tuple[bytes, int]:
  """The noisy picture that a sample brings with it, and its step."""
  step = sample.extra.get("noise_step", options.noise_step)
  if not sample.images:
    raise UserError(
      "image_noisy is set, but the sample has no image; remove the field, or "
      "add the image"
    )
  if not isinstance(sample.extra["image_noisy"], str):
    name = sample.extra["image_noisy"]
    raise UserError(f"image_noisy is {name!r:.40}; want a file name")
  (picture,) = noisy_pictures(sample)
  if type(step) is not int or not 0 <= step < noise.NUM_STEPS:
    raise UserError(f"noise_step is {step!r:.40}; want 0 to 999")
  data = picture.read()
  examine = open_image if options.verify == "full" else check_picture
  examine(data, f"image_noisy {picture.name!r}")
  return data, step


def _noise(
  sample: Sample, pictures: tuple[bytes, ...], options: Options
) -> tuple[bytes | None, int, int]:
  """(noisy picture or None, step or -1, seed)."""
  if "image_noisy" in sample.extra:
    return *_own_noise(sample, options), 0
  if not options.store_noisy or len(pictures) != 1:
    return None, -1, 0
  seed = noise.seed_for(options.seed, sample.id, None)
  shown = f"image {sample.images[0].name!r}"
  step, overflow = options.noise_step, options.overflow
  return noisy_picture(pictures[0], shown, step, seed, overflow), step, seed


def to_record(sample: Sample, options: Options) -> Record:
  """Checks a sample and joins it with its pictures.

  Raises:
    UserError: a field is wrong; the message names it, and the caller adds file
      and id.
  """
  check_turns(sample)
  pictures = tuple(picture.read() for picture in sample.images)
  noisy, step, seed = _noise(sample, pictures, options)
  for picture, data in zip(sample.images, pictures, strict=True):
    shown = f"image {picture.name!r}"
    if options.verify == "full":
      open_image(data, shown)
    elif not seed:  # a picture that noise was put on has been decoded
      check_picture(data, shown)
  return pairs.to_record(sample, pictures, noisy, step, seed)
