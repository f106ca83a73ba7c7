"""Patches, windows and positions of Qwen2.5-VL against transformers."""

from types import SimpleNamespace

import numpy as np
import pytest

from povid_jax.data.qwen_layout import Native, positions
from povid_jax.data.room import Extent, cover, total
from povid_jax.errors import UserError

PUBLISHED = Native()
SMALL = Native(min_pixels=56 * 56, max_pixels=400 * 400)


def _sizes(count: int, seed: int = 0) -> list[tuple[int, int]]:
  draws = np.random.default_rng(seed).uniform(
    np.log(3), np.log(5000), (count, 2)
  )
  return [(int(w), int(h)) for w, h in np.exp(draws)]


def test_known_sizes():
  sizes = [(640, 480), (300, 200), (1280, 720), (4000, 4000)]
  tokens = [extent.tokens for extent in PUBLISHED.measure(sizes)]
  assert tokens == [391, 77, 1196, 16384]


def _processor(layout: Native, **fields):
  pytest.importorskip("torch")
  from transformers.models.qwen2_vl import (
    image_processing_pil_qwen2_vl as pillow,
  )

  return pillow.Qwen2VLImageProcessorPil(
    patch_size=layout.patch,
    min_pixels=layout.min_pixels,
    max_pixels=layout.max_pixels,
    **fields,
  )


@pytest.mark.parametrize("layout", [PUBLISHED, SMALL])
def test_counts(layout):
  theirs = _processor(layout)
  for width, height in _sizes(200):
    if max(width, height) > 200 * min(width, height):
      with pytest.raises(UserError, match=f"{width}x{height}"):
        layout.measure([(width, height)])
      continue
    want = theirs.get_number_of_image_patches(height, width)
    assert layout.measure([(width, height)]) == [Extent(want, want // 4)]


@pytest.mark.parametrize(
  "size", [(30, 20), (123, 77), (300, 500), (112, 112), (640, 480)]
)
def test_pixels_windows_and_places(size):
  """Byte for byte, patch for patch."""
  theirs = _processor(SMALL, do_rescale=False, do_normalize=False)
  import torch
  from transformers import vision_utils

  from tests.qwen_world import picture

  image = picture(*size)
  out = theirs(images=[image], return_tensors="np")
  want = out["pixel_values"].reshape(-1, 3, 2, 14, 14)
  grid = torch.from_numpy(out["image_grid_thw"])
  order, lengths = vision_utils.get_vision_window_index(grid, 2, 112, 14)
  places = vision_utils.get_vision_position_ids(grid, 2).numpy()
  got = SMALL.cut([image])
  by_token = lambda x: x.reshape(-1, 4, *x.shape[1:])[got.index]
  pixels = by_token(got.pixels).reshape(-1, 14, 14, 3).transpose(0, 3, 1, 2)
  for frame in range(2):
    np.testing.assert_array_equal(pixels, want[:, :, frame])
  np.testing.assert_array_equal(by_token(got.position).reshape(-1, 2), places)
  np.testing.assert_array_equal(np.argsort(got.index), order.numpy())
  counts = np.unique(got.window, return_counts=True)[1]
  np.testing.assert_array_equal(counts, np.diff(lengths.numpy()))
  assert (np.diff(got.window) >= 0).all()


def test_pack_pads_behind_what_cut_gives():
  from tests.qwen_world import picture

  rows = [[picture(90, 60)], [], [picture(30, 30, 1), picture(60, 90, 2)]]
  extents = [total(SMALL.measure([p.size for p in row])) for row in rows]
  room = cover(extents)
  for row, extent in zip(rows, extents, strict=True):
    cut, packed = SMALL.cut(row), SMALL.pack(SMALL.cut(row), room)
    described = SMALL.describe(room)
    assert len(packed["pixels"]) % 64 == 0
    for name, array in packed.items():
      assert (array.shape, array.dtype) == (
        described[name].shape,
        described[name].dtype,
      )
      count = extent.tokens if name == "index" else extent.tiles
      np.testing.assert_array_equal(array[:count], getattr(cut, name))
      assert not array[count:].any()
  two = SMALL.cut(rows[2])
  assert set(two.picture) == {1, 2}
  assert not set(two.window[two.picture == 1]) & set(
    two.window[two.picture == 2]
  )


def _random_prompt(rng) -> tuple[np.ndarray, list[tuple[int, int]]]:
  """Image places of a prompt of up to four pictures, and their grids."""
  parts, grids = [np.zeros(rng.integers(1, 9), bool)], []
  for _ in range(rng.integers(0, 5)):
    rows, columns = rng.integers(1, 9, 2).tolist()
    grids.append((rows, columns))
    # a picture stands between two tokens of its own
    parts += [np.ones(rows * columns, bool), np.zeros(rng.integers(1, 9), bool)]
  return np.concatenate(parts), grids


def test_positions():
  """Of 200 random prompts, as `get_rope_index` has them."""
  torch = pytest.importorskip("torch")
  from transformers import Qwen2_5_VLModel

  model = SimpleNamespace(
    config=SimpleNamespace(
      vision_config=SimpleNamespace(spatial_merge_size=2, tokens_per_second=2)
    )
  )
  model.get_vision_position_ids = lambda *a, **k: (
    Qwen2_5_VLModel.get_vision_position_ids(model, *a, **k)
  )
  rng = np.random.default_rng(0)
  for _ in range(200):
    is_image, grids = _random_prompt(rng)
    thw = [[1, 2 * h, 2 * w] for h, w in grids]
    want, delta = Qwen2_5_VLModel.get_rope_index(
      model,
      torch.zeros((1, len(is_image)), dtype=torch.long),
      torch.from_numpy(is_image.astype(np.int32))[None],
      torch.tensor(thw) if thw else None,
    )
    got, start = positions(is_image, grids)
    np.testing.assert_array_equal(got.T, want[:, 0].numpy())
    assert start == len(is_image) + int(delta[0, 0])
