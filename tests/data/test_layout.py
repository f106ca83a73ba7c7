"""Tiles and token maps against transformers, by its own functions."""

import io
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from povid_jax.data import layout
from povid_jax.data.anyres import NEWLINE, AnyRes
from povid_jax.data.image import BACKGROUND
from povid_jax.data.layout import Extent, Square
from povid_jax.errors import UserError
from povid_jax.models.config import LayoutConfig, LlavaConfig, VisionConfig

NEXT = AnyRes(
  336, 24, ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
)
_STEPS = range(384, 2305, 384)
ONEVISION = AnyRes(
  384,
  27,
  tuple((h, w) for h in _STEPS for w in _STEPS),
  max_tiles=9,
  squares=True,
  background=(127, 127, 127),
)
# (width, height) -> tiles, tokens of LLaVA-NeXT, then of LLaVA-OneVision
KNOWN = {
  (336, 336): (3, 1176, 2, 1485),
  (300, 200): (3, 1464, 2, 1261),
  (640, 480): (5, 2340, 5, 2929),
  (480, 640): (5, 2352, 5, 2943),
  (1024, 899): (5, 2634, 10, 6551),
  (1280, 720): (5, 1948, 9, 5967),
  (2000, 500): (4, 1890, 13, 7249),
  (3000, 2000): (5, 2144, 25, 7329),
  (100, 1000): (4, 1224, 4, 1539),
  (4000, 4000): (5, 2928, 37, 7371),
}


def _picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
  width, height = size
  rng = np.random.default_rng([seed, width, height])
  wave = np.sin(np.arange(width) / 17 + np.arange(height)[:, None] / 29)
  noise = rng.integers(-40, 41, (height, width, 3))
  values = 127 + 80 * wave[..., None] + noise
  return Image.fromarray(values.astype(np.uint8))


def _sizes(count: int, largest: int = 4000) -> list[tuple[int, int]]:
  draws = np.random.default_rng(0).uniform(
    np.log(40), np.log(largest), (count, 2)
  )
  return [(int(w), int(h)) for w, h in np.exp(draws)]


@pytest.mark.parametrize(("size", "known"), KNOWN.items())
def test_known_sizes(
  size: tuple[int, int], known: tuple[int, int, int, int]
) -> None:
  next_one = NEXT.measure([size])
  assert next_one == [Extent(known[0], known[1])]
  (one,) = ONEVISION.measure([size])
  assert one[:2] == known[2:]
  assert one.taps == (4 if size in [(3000, 2000), (4000, 4000)] else 1)


@pytest.mark.parametrize("spec", [NEXT, ONEVISION])
def test_what_is_measured_is_what_is_cut(spec: AnyRes) -> None:
  for size in _sizes(12, 900):
    made = spec.cut([_picture(size)])
    (extent,) = spec.measure([size])
    assert made.index is not None
    assert extent == (len(made.pixels), *made.index.shape)


def _gathered(spec: AnyRes, size: tuple[int, int], table: np.ndarray):
  """Packed features of one picture by its token map; the newline is last."""
  index, weight = spec.token_map(size)
  index = np.where(index < 0, len(table) - 1, index)
  if weight is None:
    return table[index[:, 0]]
  return (table[index] * weight[..., None]).sum(1)


@pytest.mark.parametrize(
  ("spec", "name", "tolerance"),
  [(NEXT, "next", 0.0), (ONEVISION, "onevision", 1e-4)],
)
def test_token_map_is_that_of_transformers(
  spec: AnyRes, name: str, tolerance: float
) -> None:
  torch = pytest.importorskip("torch")
  from transformers.models.llava_next import modeling_llava_next as one
  from transformers.models.llava_onevision import (
    modeling_llava_onevision as two,
  )

  theirs = one.LlavaNextModel if name == "next" else two.LlavaOnevisionModel
  vision = SimpleNamespace(image_size=spec.tile, patch_size=14)
  config = SimpleNamespace(
    vision_config=vision, image_grid_pinpoints=[list(p) for p in spec.pinpoints]
  )
  options = {"vision_feature_select_strategy": "default"}
  rng = np.random.default_rng(1)
  for size in _sizes(150):
    tiles = spec.measure([size])[0].tiles
    shape = (tiles, spec.side**2, 3)
    features = rng.standard_normal(shape).astype(np.float32)
    newline = rng.standard_normal(3).astype(np.float32)
    want, _ = theirs.pack_image_features(
      SimpleNamespace(config=config),
      [torch.from_numpy(features)],
      torch.tensor([size[::-1]]),
      image_newline=torch.from_numpy(newline),
      **(options if name == "next" else {}),
    )
    table = np.concatenate([features.reshape(-1, 3), newline[None]])
    got = _gathered(spec, size, table)
    assert got.shape == want[0].shape, size
    assert np.abs(got - want[0].numpy()).max() <= tolerance, size


def _processors():
  from transformers.models.llava_next import (
    image_processing_pil_llava_next as one,
  )
  from transformers.models.llava_onevision import (
    image_processing_pil_llava_onevision as two,
  )

  size = {"shortest_edge": 336}
  crop = {"height": 336, "width": 336}
  half = [0.5, 0.5, 0.5]
  return {
    "next": one.LlavaNextImageProcessorPil(size=size, crop_size=crop),
    "onevision": two.LlavaOnevisionImageProcessorPil(
      image_mean=half, image_std=half
    ),
  }


def _bytes(pixels: np.ndarray, processor) -> np.ndarray:
  """Normalised [..., 3, H, W] back to the bytes they were made of."""
  channel = (3, 1, 1)
  mean = np.reshape(processor.image_mean, channel)
  std = np.reshape(processor.image_std, channel)
  values = (np.asarray(pixels, np.float64) * std + mean) * 255
  assert np.abs(values - np.round(values)).max() < 1e-3
  return np.moveaxis(np.round(values), -3, -1).astype(np.uint8)


@pytest.mark.parametrize(
  "size", [(336, 336), (300, 200), (333, 500), (77, 301), (640, 480)]
)
def test_tiles_are_those_of_the_processors(size: tuple[int, int]) -> None:
  pytest.importorskip("torch")
  picture = _picture(size)
  for spec, processor in zip(
    (NEXT, ONEVISION), _processors().values(), strict=True
  ):
    made = processor(picture, return_tensors="np")["pixel_values"][0]
    want = _bytes(made, processor)
    got = spec.cut([picture]).pixels
    assert np.array_equal(got, want)


def test_several_pictures() -> None:
  """NeXT cuts each of them, OneVision makes a square of each."""
  pytest.importorskip("torch")
  sizes = [(300, 200), (100, 150)]
  pictures = [_picture(size) for size in sizes]
  made = ONEVISION.cut(pictures)
  processor = _processors()["onevision"]
  want = processor([pictures], return_tensors="np")["pixel_values"]
  assert np.array_equal(made.pixels, _bytes(want[:, 0], processor))
  assert ONEVISION.measure(sizes) == [Extent(1, 730)] * 2
  assert made.index is not None
  second = made.index[730:, 0]
  assert second.tolist() == [*range(729, 2 * 729), NEWLINE]

  apart = [NEXT.cut([picture]) for picture in pictures]
  both = NEXT.cut(pictures)
  assert np.array_equal(both.pixels, np.concatenate([a.pixels for a in apart]))
  one, two = (a.index for a in apart)
  assert one is not None and two is not None and both.index is not None
  moved = np.where(two < 0, two, two + len(apart[0].pixels) * 24**2)
  assert np.array_equal(both.index, np.concatenate([one, moved]))
  total = layout.total(NEXT.measure(sizes))
  assert total == (len(both.pixels), *both.index.shape)


def test_rows_are_padded_to_the_extent() -> None:
  """A row that is shrunk beside one that is not, and one without pictures."""
  spec = AnyRes(
    30, 4, tuple((30 * i, 30 * j) for i in range(1, 7) for j in range(1, 7)), 9
  )
  sizes = [(200, 150), (40, 30)]
  rows = [spec.cut([_picture(size)]) for size in sizes]
  rows.append(spec.cut([]))
  extents = [layout.total(spec.measure([size])) for size in sizes]
  extent = layout.cover([*extents, layout.total([])])
  assert extent == Extent(31, 156, 4)
  each = [spec.pack(row, extent) for row in rows]
  for made in each:
    kinds = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert kinds(made) == kinds(spec.describe(extent))
  packed = jax.tree.map(lambda *x: np.stack(x), *each)
  assert {k: (v.shape, v.dtype.name) for k, v in packed.items()} == {
    "pixels": ((3, 31, 30, 30, 3), "uint8"),
    "index": ((3, 156, 4), "int32"),
    "weight": ((3, 156, 4), "float32"),
  }
  assert np.array_equal(packed["pixels"][1, :3], rows[1].pixels)
  assert not packed["pixels"][1, 3:].any() and not packed["pixels"][2].any()
  # a token that is one feature stays it
  assert np.array_equal(packed["index"][1, :44, :1], rows[1].index)
  assert np.array_equal(packed["weight"][1, :44], [[1, 0, 0, 0]] * 44)
  # without shrunk rows there are no weights
  assert set(spec.pack(rows[1], extents[1])) == {"pixels", "index"}
  assert set(spec.describe(extents[1])) == {"pixels", "index"}


def test_square_is_one_picture_each() -> None:
  spec = layout.of(LlavaConfig())
  assert spec == Square(336, 576, "pad")
  assert spec.measure([(640, 480), (1, 1)]) == [Extent(1, 576)] * 2
  made = spec.cut([_picture((50, 40))])
  packed = spec.pack(made, Extent(2, 0))
  described = spec.describe(Extent(2, 0))
  assert packed.shape == described.shape == (2, 336, 336, 3)
  assert packed.dtype == described.dtype == np.uint8
  assert np.array_equal(packed[0], made.pixels[0]) and not packed[1].any()
  assert not spec.pack(spec.cut([]), Extent(2, 0)).any()


def test_header_alone_is_read() -> None:
  file = io.BytesIO()
  _picture((640, 480)).save(file, "PNG")
  data = file.getvalue()
  assert layout.measure_encoded(NEXT, [data[:100]]) == [Extent(5, 2340)]
  with pytest.raises(UserError, match="image 1: not a picture"):
    layout.measure_encoded(NEXT, [data, b"x" * 50])
  square = layout.of(LlavaConfig())
  assert layout.measure_encoded(square, [b"unread"]) == [Extent(1, 576)]


def test_original_reads_pinpoints_the_other_way() -> None:
  """Where two canvases fit as well, the first one is taken."""

  def made(reader: str) -> layout.Layout:
    config = LayoutConfig("anyres", pinpoints=NEXT.pinpoints, reader=reader)
    return layout.of(LlavaConfig(layout=config))

  assert made("transformers") == NEXT
  counts = [
    made(reader).measure([(300, 200), (336, 336), (640, 480)])
    for reader in ("transformers", "original")
  ]
  assert [e.tokens for e in counts[0]] == [1464, 1176, 2340]
  assert [e.tokens for e in counts[1]] == [976, 1176, 2340]


def test_background_is_the_towers_mean() -> None:
  config = LayoutConfig("anyres", pinpoints=((384, 384),), several="square")
  half = VisionConfig(image_size=384, mean=(0.5,) * 3, std=(0.5,) * 3)
  made = layout.of(LlavaConfig(vision=half, layout=config))
  assert isinstance(made, AnyRes)
  assert made.background == (127, 127, 127) and made.squares
  clip = layout.of(
    LlavaConfig(layout=LayoutConfig("anyres", "pad", ((336, 336),)))
  )
  assert isinstance(clip, AnyRes) and clip.background == BACKGROUND


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"kind": "tiles"}, "layout.kind"),
    ({"mode": "crop"}, "layout.mode"),
    ({"several": "one"}, "layout.several"),
    ({"reader": "hf"}, "layout.reader"),
    ({"kind": "anyres"}, "layout.pinpoints"),
    ({"kind": "anyres", "pinpoints": ((336, 500),)}, "multiples of the tower"),
    ({"kind": "anyres", "pinpoints": ((336,),)}, "layout.pinpoints"),
    ({"kind": "anyres", "pinpoints": (("a", 336),)}, "layout.pinpoints"),
  ],
)
def test_a_layout_that_is_none(fields: dict, message: str) -> None:
  with pytest.raises(UserError, match=message):
    LlavaConfig(layout=LayoutConfig(**fields))
