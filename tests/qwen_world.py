"""A tiny Qwen2.5-VL of ours: dimensions, pictures, prompts, batches."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from povid_jax.data import layout as layout_lib
from povid_jax.data.layout import Extent, Layout
from povid_jax.models.config import LlavaConfig
from povid_jax.models.llava import IMAGE_TOKEN
from povid_jax.models.presets import PRESETS

IMAGE_ID, VIDEO_ID, START_ID, END_ID = 90, 91, 88, 89
_TEST = PRESETS["test-qwen"]
CONFIG = dataclasses.replace(
  _TEST,
  decoder=dataclasses.replace(
    _TEST.decoder,
    vocab_size=96,
    intermediate_size=80,
    num_layers=3,
    max_positions=256,
  ),
)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
  rng = np.random.default_rng(seed)
  return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


# several windows and ragged edges, smaller than a window, a tall one
PICTURES = [picture(60, 44), picture(20, 15, 1), picture(33, 101, 2)]
# rows of one picture, none, two
MIXED = [PICTURES[:1], PICTURES[1:2], [], [PICTURES[2], PICTURES[0]]]


def prompt(
  layout: Layout, pictures: Sequence[Image.Image], seed: int = 1
) -> np.ndarray:
  """A prompt with these pictures: text before, between and behind them."""
  rng = np.random.default_rng(seed)
  parts = [rng.integers(3, 80, rng.integers(1, 6))]
  for extent in layout.measure([p.size for p in pictures]):
    image = [START_ID, *[IMAGE_TOKEN] * extent.tokens, END_ID]
    parts += [image, rng.integers(3, 80, rng.integers(0, 5))]
  return np.concatenate([*parts, rng.integers(3, 80, 4)]).astype(np.int32)


def pack(
  layout: Layout, pictures: Sequence[Sequence[Image.Image]], extent: Extent
) -> dict[str, np.ndarray]:
  """Rows of pictures as arrays [B, ...]."""
  rows = [layout.pack(layout.cut(some), extent) for some in pictures]
  return jax.tree.map(lambda *x: np.stack(x), *rows)


def batch(
  prompts: Sequence[np.ndarray],
  pictures: Sequence[Sequence[Image.Image]],
  config: LlavaConfig = CONFIG,
) -> dict[str, Any]:
  """Right-padded prompts with their pictures and positions."""
  layout = layout_lib.of(config)
  sizes = [[p.size for p in some] for some in pictures]
  extent = layout_lib.cover(
    [layout_lib.total(layout.measure(one)) for one in sizes]
  )
  longest = max(map(len, prompts)) + 3
  ids = np.full((len(prompts), longest), 7, np.int32)
  positions = np.zeros((len(prompts), longest, 3), np.int32)
  starts = []
  for i, one in enumerate(prompts):
    ids[i, : len(one)] = one
    found = layout.positions(one == IMAGE_TOKEN, sizes[i])
    assert found is not None
    positions[i, : len(one)], start = found
    starts.append(start)
  return dict(
    prefix_ids=ids,
    prefix_len=np.array(list(map(len, prompts)), np.int32),
    images=pack(layout, pictures, extent),
    positions=positions,
    position_start=np.array(starts, np.int32),
  )
