"""The forward diffusion noise that makes a picture's distorted twin.

Source: facts of the released POVID code, which took the schedule from VCD
(arXiv 2311.16922). Everything here is a pure function of its arguments.
"""

import functools
import hashlib
import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from povid_jax.errors import UserError

NUM_STEPS = 1000

Overflow = Literal["wrap", "clip"]

_CHUNK = 1 << 15  # values worked on at a time, so that they stay in the cache


def _alpha_bar() -> np.ndarray:
  """Share of the signal's variance that is left after each step.

  The betas are float32 as in the released code; their product is taken in
  float64, where a float32 product would lose the fifth digit at the end.
  """
  line = np.linspace(-6.0, 6.0, NUM_STEPS, dtype=np.float32)
  sigmoid = 1.0 / (1.0 + np.exp(-line, dtype=np.float32))
  betas = sigmoid * np.float32(0.5e-2 - 1e-5) + np.float32(1e-5)
  return np.cumprod(1.0 - betas.astype(np.float64))


ALPHA_BAR = _alpha_bar()  # float64[1000]
ALPHA_BAR.setflags(write=False)


def seed_for(seed: int, sample_id: str, epoch: int | None) -> int:
  """The 63-bit noise seed of one sample, the same on every machine.

  Args:
    seed: the run's seed.
    sample_id: the sample's id.
    epoch: fresh noise for each epoch; None for the same noise in all of them,
      so that the result can be cached or stored.
  """
  text = f"{seed}\0{'' if epoch is None else epoch}\0{sample_id}"
  digest = hashlib.blake2b(
    text.encode("utf-8", "surrogatepass"), digest_size=8, person=b"povid"
  ).digest()
  return int.from_bytes(digest, "little") >> 1


@functools.cache
def _normals() -> np.ndarray:
  """float32[65536], the middle quantiles of the standard normal.

  A draw of 16 bits picks one. That is 3 times as fast as NumPy's ziggurat and
  rests on the raw stream of PCG64 alone, which NumPy promises never to change
  (it may change its normals). The largest is 4.3 and their standard deviation
  0.99999; rounded to bytes, pictures cannot tell.
  """
  inverse = statistics.NormalDist().inv_cdf
  lower = np.array([inverse((i + 0.5) / 65536) for i in range(32768)])
  return np.concatenate([lower, -lower[::-1]]).astype(np.float32)


def distort(
  image: np.ndarray, step: int, seed: int, overflow: Overflow = "wrap"
) -> np.ndarray:
  """Noises a picture: sqrt(ab) x + sqrt(1 - ab) eps, in the range 0..1.

  Args:
    image: uint8[H, W, 3], the raw picture before padding and resizing.
    step: 0..999; 500 is the paper's choice (signal 0.863, noise 0.505).
    seed: what `seed_for` gives, or any non-negative integer.
    overflow: what becomes of values that leave 0..255. "wrap" keeps the low
      byte of the number truncated towards zero: it is what the released code
      does by way of ToPILImage. "clip" keeps them at 0 or 255.

  Returns:
    uint8[H, W, 3], the same for the same arguments.

  Raises:
    UserError: a step or an overflow that does not exist.
  """
  if not 0 <= step < NUM_STEPS:
    raise UserError(f"noise step {step}: want 0 to {NUM_STEPS - 1}")
  if overflow not in ("wrap", "clip"):
    raise UserError(f"overflow {overflow!r}: want 'wrap' or 'clip'")
  if image.dtype != np.uint8:
    raise ValueError(f"want uint8, got {image.dtype}")
  signal = np.float32(np.sqrt(ALPHA_BAR[step]))
  levels = np.arange(256, dtype=np.float32) / np.float32(255) * signal
  eps = _normals() * np.float32(np.sqrt(1.0 - ALPHA_BAR[step]))
  flat = image.reshape(-1)
  out = np.empty_like(flat)
  draws = np.random.PCG64(seed).random_raw((flat.size + 3) // 4)
  picks = draws.astype("<u8", copy=False).view("<u2")
  for i in range(0, flat.size, _CHUNK):
    part = slice(i, min(i + _CHUNK, flat.size))
    noisy = eps.take(picks[part])
    noisy += levels.take(flat[part])
    noisy *= np.float32(255)
    if overflow == "clip":
      np.clip(noisy, 0, 255, out=noisy)
    # By way of int32, where a negative number has a defined low byte.
    out[part] = noisy.astype(np.int32)
  return out.reshape(image.shape)


def distort_all(
  pictures: Sequence[Image.Image], step: int, seed: int, overflow: Overflow
) -> list[Image.Image]:
  """The noisy twins of a sample's pictures, each with a draw of its own."""
  return [
    Image.fromarray(distort(np.asarray(picture), step, seed + i, overflow))
    for i, picture in enumerate(pictures)
  ]
