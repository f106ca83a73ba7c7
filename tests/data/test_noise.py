import math
import statistics

import numpy as np
import pytest

from povid_jax.data import noise
from povid_jax.errors import UserError

# The paper's schedule, to the digits of the released schedule.
SCHEDULE = {
  0: (0.9999777, 0.9999888, 0.0047264),
  100: (0.9965888, 0.9982929, 0.0584058),
  200: (0.9877952, 0.9938789, 0.1104752),
  300: (0.9623294, 0.9809839, 0.1940892),
  400: (0.8927596, 0.9448595, 0.3274759),
  500: (0.7447985, 0.8630171, 0.5051747),
  600: (0.5391179, 0.7342465, 0.6788830),
  700: (0.3512664, 0.5926773, 0.8054400),
  800: (0.2181018, 0.4670137, 0.8842501),
  900: (0.1331432, 0.3648879, 0.9310515),
  999: (0.0812492, 0.2850424, 0.9585149),
}


def flat(level: int, size: int = 200) -> np.ndarray:
  return np.full((size, size, 3), level, np.uint8)


@pytest.mark.parametrize("step", SCHEDULE)
def test_schedule_is_the_published_one(step: int) -> None:
  alpha_bar, signal, sigma = SCHEDULE[step]
  value = noise.ALPHA_BAR[step]
  assert value == pytest.approx(alpha_bar, abs=6e-8)
  assert math.sqrt(value) == pytest.approx(signal, abs=6e-8)
  assert math.sqrt(1 - value) == pytest.approx(sigma, abs=3e-7)
  assert noise.ALPHA_BAR.shape == (1000,)
  assert noise.ALPHA_BAR.dtype == np.float64


def test_schedule_cannot_be_changed() -> None:
  with pytest.raises(ValueError, match="read-only"):
    noise.ALPHA_BAR[0] = 0


def reference(
  image: np.ndarray, step: int, seed: int, wrap: bool
) -> np.ndarray:
  """One number at a time, in Python, from the raw draws."""
  f = np.float32
  a = f(math.sqrt(noise.ALPHA_BAR[step]))
  s = f(math.sqrt(1 - noise.ALPHA_BAR[step]))
  raw = np.random.PCG64(seed).random_raw(image.size)
  out = []
  for i, byte in enumerate(image.ravel()):
    draw = int(raw[i // 4]) >> (16 * (i % 4)) & 0xFFFF
    normal = f(statistics.NormalDist().inv_cdf((draw + 0.5) / 65536))
    value = int((f(byte) / f(255) * a + s * normal) * f(255))  # to zero
    out.append(value % 256 if wrap else min(max(value, 0), 255))
  return np.array(out, np.uint8).reshape(image.shape)


@pytest.mark.parametrize("step", [0, 500, 999])
@pytest.mark.parametrize("overflow", ["wrap", "clip"])
def test_each_byte(step: int, overflow: noise.Overflow) -> None:
  image = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
  want = reference(image, step, 11, overflow == "wrap")
  assert np.array_equal(noise.distort(image, step, 11, overflow), want)


def test_wrap_brings_the_dark_back_as_light() -> None:
  # -1.5 is cut to -1, whose low byte is 255; -0.5 is cut to 0.
  wrapped = noise.distort(flat(0), 500, 1)
  clipped = noise.distort(flat(0), 500, 1, "clip")
  below = clipped == 0
  assert below.mean() == pytest.approx(0.5, abs=0.01)
  # P(-128 < value < 0) = 0.34 of 0.5: those come back in the upper half.
  assert (wrapped[below] > 127).mean() == pytest.approx(0.71, abs=0.02)


def test_normals_are_normal() -> None:
  step = 200  # far enough from both ends that nothing overflows
  noisy = noise.distort(flat(128), step, 5).astype(np.float64) + 0.5
  eps = (noisy - 128 * 0.9938789) / (255 * 0.1104752)
  assert eps.mean() == pytest.approx(0, abs=0.01)
  assert eps.std() == pytest.approx(1, abs=0.01)
  for z in (-2, -1, -0.5, 0.5, 1, 2):
    share = statistics.NormalDist().cdf(z)
    assert (eps < z).mean() == pytest.approx(share, abs=0.01)
  for axis in range(3):  # neighbours, in space and colour, know nothing
    shifted = np.roll(eps, 1, axis)
    assert (eps * shifted).mean() == pytest.approx(0, abs=0.015)


def test_a_pure_function_of_the_seed() -> None:
  image = flat(100)
  first = noise.distort(image, 500, 7)
  assert np.array_equal(first, noise.distort(image, 500, 7))
  other = noise.distort(image, 500, 8)
  assert (first != other).mean() > 0.9
  assert np.array_equal(image, flat(100))


def test_stream_of_normals_has_not_moved() -> None:
  """Stored datasets and resumed runs depend on it."""
  got = noise.distort(flat(100, 2), 500, 2**62 + 1).ravel().tolist()
  assert got == GOLDEN


GOLDEN = [62, 207, 230, 175, 165, 72, 246, 105, 230, 53, 9, 170]


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 17, 3), (33, 1, 3)])
def test_small_pictures(shape: tuple[int, ...]) -> None:
  noisy = noise.distort(np.zeros(shape, np.uint8), 999, 0)
  assert noisy.shape == shape and noisy.dtype == np.uint8


def test_seeds_differ_by_run_sample_and_epoch() -> None:
  seeds = {
    noise.seed_for(seed, sample, epoch)
    for seed in (0, 1, 11)
    for sample in ("a", "1a", "", "ü", "\ud800")
    for epoch in (None, 0, 1, 11)
  }
  assert len(seeds) == 3 * 5 * 4
  assert all(0 <= seed < 2**63 for seed in seeds)
  # A change here would change every stored dataset.
  assert noise.seed_for(0, "a", None) == SEED_GOLDEN


SEED_GOLDEN = 4825333929358306559


@pytest.mark.parametrize("step", [-1, 1000])
def test_step_out_of_range(step: int) -> None:
  with pytest.raises(UserError, match=f"step {step}: want 0 to 999"):
    noise.distort(flat(0, 2), step, 0)


def test_unknown_overflow() -> None:
  with pytest.raises(UserError, match="'clamp': want 'wrap' or 'clip'"):
    noise.distort(flat(0, 2), 1, 0, "clamp")  # type: ignore[arg-type]
