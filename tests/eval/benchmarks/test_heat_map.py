"""The heat map's colours, scale and layout, pixel by pixel."""

import numpy as np
import pytest

from povid_jax.eval.benchmarks import heat_map


def luminance(colour: np.ndarray) -> np.ndarray:
  return colour.astype(float) @ (0.2126, 0.7152, 0.0722)


def test_colours_grow_lighter_evenly() -> None:
  light = luminance(heat_map.colours(np.linspace(0, 1, 101)))
  assert (np.diff(light) > -1e-9).all()
  assert light[0] < 25
  assert light[-1] > 225
  steps = np.diff(luminance(heat_map.colours(np.linspace(0, 1, 6))))
  assert steps.max() < 3 * steps.min()


SCALED = [(0.1, 1.0), (0.01, 2 / 3), (1e-4, 0.0), (1e-5, -1 / 3), (1.0, 4 / 3)]


@pytest.mark.parametrize(("weight", "expected"), SCALED)
def test_scale_is_logarithmic(weight: float, expected: float) -> None:
  got = heat_map.scaled(np.array(weight), 0.1)
  assert got == pytest.approx(expected, abs=1e-9)
  assert np.isfinite(heat_map.scaled(np.array(0.0), 0.1))


def drawn(count: int, image: int, prompt: int) -> np.ndarray:
  """uint8[H, W, 3] of weights that are 1 on one image token, else small."""
  width = image + prompt + count
  weights = np.full((count, width), 1e-9)
  weights[:, 1 + image // 2] = 1.0
  is_image = np.zeros(width, bool)
  is_image[1 : 1 + image] = True
  picture = heat_map.draw(weights, is_image, ["w"] * count, "A title é \u2423")
  return np.asarray(picture)


def test_one_bright_column_and_an_unseen_triangle() -> None:
  pixels = drawn(count=8, image=40, prompt=6)
  bright = (pixels == heat_map.colours(np.array(1.0))).all(-1)
  rows = np.flatnonzero(bright[:, 96:736].sum(1) == 640 // 40)
  assert len(rows) == 8 * 18  # eight rows of 18 pixels, one column each
  # response tokens: column j unseen in rows 0..j, so 8 + 7 + ... + 1 cells
  unseen = (pixels == heat_map._UNSEEN).all(-1)
  assert unseen.sum() == 36 * 18 * 18


def test_any_number_of_tokens_can_be_drawn() -> None:
  for count, image, prompt in ((1, 1, 1), (300, 576, 40), (3, 2880, 9)):
    height, width, _ = drawn(count, image, prompt).shape
    assert 100 < height < 1500
    assert 500 < width < 4000


def test_without_an_image() -> None:
  weights = np.tri(4, 9, k=4) / 9
  picture = heat_map.draw(weights, np.zeros(9, bool), list("abcd"), "t")
  assert picture.width >= 560
