import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from povid_jax.data import image
from povid_jax.errors import UserError
from povid_jax.models.config import CLIP_MEAN, CLIP_STD

# the oldest transformers that we take has no Pillow processors yet
image_processing_pil_clip = pytest.importorskip(
  "transformers.models.clip.image_processing_pil_clip"
)

SIZES = [
  (64, 64), (56, 56), (101, 67), (67, 101), (33, 200), (200, 33), (1, 1),
  (1, 40), (40, 1), (57, 56), (300, 7), (55, 300), (336, 400), (400, 336),
]  # fmt: skip


def noise_image(width: int, height: int) -> Image.Image:
  rng = np.random.default_rng(width * 1000 + height)
  return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def smooth_image(width: int, height: int) -> Image.Image:
  small = noise_image(5, 4)
  return small.resize((width, height), Image.Resampling.BICUBIC)


def clip_processor(picture: Image.Image, size: int, mode: str) -> np.ndarray:
  """LLaVA's way: a square canvas in the mean colour, then Hugging Face's."""
  if mode == "pad":
    edge = max(picture.size)
    canvas = Image.new("RGB", (edge, edge), (122, 116, 104))
    place = ((edge - picture.width) // 2, (edge - picture.height) // 2)
    canvas.paste(picture, place)
    picture = canvas
  processor = image_processing_pil_clip.CLIPImageProcessorPil(
    size={"shortest_edge": size}, crop_size={"height": size, "width": size}
  )
  out = processor(
    picture, do_rescale=False, do_normalize=False, return_tensors="np"
  )
  return out["pixel_values"][0].transpose(1, 2, 0).astype(np.uint8)


@pytest.mark.parametrize("mode", ["pad", "resize"])
@pytest.mark.parametrize("size", SIZES)
def test_bytes_are_those_of_the_clip_processor(
  size: tuple[int, int], mode: image.Mode
) -> None:
  for make in (noise_image, smooth_image):
    picture = make(*size)
    want = clip_processor(picture, 56, mode)
    got = image.preprocess(picture, 56, mode)
    assert got.dtype == np.uint8 and got.shape == (56, 56, 3)
    assert np.array_equal(got, want)


def test_tall_pictures_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(image, "_BAND_PIXELS", 3_000)
  picture = noise_image(97, 311)
  want = clip_processor(picture, 56, "pad")
  assert np.array_equal(image.preprocess(picture, 56), want)


def test_constants_are_those_of_clip() -> None:
  processor = image_processing_pil_clip.CLIPImageProcessorPil()
  assert tuple(processor.image_mean) == CLIP_MEAN
  assert tuple(processor.image_std) == CLIP_STD
  assert tuple(int(m * 255) for m in processor.image_mean) == image.BACKGROUND


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


def test_greyscale() -> None:
  grey = noise_image(9, 7).convert("L")
  got = np.array(image.open_image(encoded(grey, "PNG")))
  assert np.array_equal(got, np.repeat(np.array(grey)[..., None], 3, 2))


def test_palette_with_transparent_colours() -> None:
  palette = noise_image(9, 7).quantize(16)
  want = np.array(palette.convert("RGB"))
  for transparency in (None, 3, bytes(range(16))):
    options = {} if transparency is None else {"transparency": transparency}
    data = encoded(palette, "PNG", **options)
    assert np.array_equal(np.array(image.open_image(data)), want)


def test_alpha_is_dropped_and_not_blended() -> None:
  picture = noise_image(9, 7)
  clear = picture.copy()
  clear.putalpha(0)
  got = image.open_image(encoded(clear, "PNG"))
  assert np.array_equal(np.array(got), np.array(picture))


def test_grey_with_alpha_and_black_and_white() -> None:
  for mode in ("LA", "1"):
    picture = noise_image(9, 7).convert(mode)
    got = image.open_image(encoded(picture, "PNG"))
    assert np.array_equal(np.array(got), np.array(picture.convert("RGB")))


def test_cmyk() -> None:
  data = encoded(smooth_image(40, 30).convert("CMYK"), "JPEG", quality=95)
  with Image.open(io.BytesIO(data)) as plain:
    assert plain.mode == "CMYK"
    want = np.array(plain.convert("RGB"))
  assert np.array_equal(np.array(image.open_image(data)), want)


def test_sixteen_bits() -> None:
  levels = np.array([[0, 1, 255, 256, 30000, 65535]], np.uint16)
  data = encoded(Image.fromarray(levels), "PNG")
  with Image.open(io.BytesIO(data)) as plain:
    want = np.array(plain.convert("RGB"))
  assert np.array_equal(np.array(image.open_image(data)), want)


def test_rotated_by_exif_stays_as_it_is_stored() -> None:
  picture = smooth_image(40, 30)
  exif = Image.Exif()
  exif[0x0112] = 6  # a viewer would turn it by 90 degrees
  turned = image.open_image(encoded(picture, "JPEG", exif=exif))
  plain = image.open_image(encoded(picture, "JPEG"))
  assert turned.size == (40, 30)
  assert np.array_equal(np.array(turned), np.array(plain))


def test_photographs() -> None:
  data = pytest.importorskip("skimage.data")
  for name in ("astronaut", "coffee", "chelsea", "camera"):
    if not (Path(data.__file__).parent / f"{name}.png").is_file():
      continue
    picture = Image.fromarray(getattr(data, name)()).convert("RGB")
    want = clip_processor(picture, 336, "pad")
    assert np.array_equal(image.preprocess(picture, 336), want)


def bomb() -> bytes:
  """A PNG of 30,000 x 30,000 black pixels in a few hundred kilobytes."""

  def chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data)
    return len(data).to_bytes(4, "big") + kind + data + crc.to_bytes(4, "big")

  edge = (30_000).to_bytes(4, "big")
  head = chunk(b"IHDR", edge + edge + bytes([8, 0, 0, 0, 0]))
  body = chunk(b"IDAT", zlib.compress(bytes(1000)))
  return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
  with pytest.raises(
    UserError, match="x.png: refused, because it decodes to more"
  ):
    image.open_image(bomb(), "x.png")
  # Just over the limit Pillow itself only warns.
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
  with pytest.raises(UserError, match="more than 1,000 pixels"):
    image.open_image(encoded(noise_image(40, 30), "PNG"))


JPEG = encoded(noise_image(60, 50), "JPEG")
PNG = encoded(noise_image(60, 50), "PNG")


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (JPEG[: len(JPEG) // 2], "broken: .*truncated"),
    (PNG[: len(PNG) // 2], "broken"),
    (PNG[:20], "not a picture|broken"),
    (b"", "not a picture"),
    (b"<html>404</html>", "not a picture"),
  ],
)
def test_broken_pictures_are_named(
  data: bytes, message: str, tmp_path: Path
) -> None:
  with pytest.raises(UserError, match=f"cat.jpg: ({message}).*; want JPEG"):
    image.open_image(data, "cat.jpg")
  path = tmp_path / "dog.jpg"
  path.write_bytes(data)
  with pytest.raises(UserError, match=f"dog.jpg: ({message})"):
    image.open_image(path)
  assert image.open_image(JPEG).size == (60, 50)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
  with pytest.raises(UserError, match="no.jpg: no such file"):
    image.open_image(tmp_path / "no.jpg")
  with pytest.raises(UserError, match="directory"):
    image.open_image(tmp_path)


def test_damaged_bytes_never_give_anything_but_our_error() -> None:
  rng = np.random.default_rng(0)
  for i in range(300):
    data = bytearray((JPEG, PNG)[i % 2])
    for at in rng.integers(0, len(data), 20):
      data[at] = rng.integers(0, 256)
    try:
      assert image.open_image(bytes(data)).mode == "RGB"
    except UserError:
      pass


def test_unknown_mode() -> None:
  with pytest.raises(UserError, match="'square': want 'pad' or 'resize'"):
    image.preprocess(noise_image(2, 2), 4, "square")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1)])
@pytest.mark.parametrize("mode", ["pad", "resize"])
def test_endless_strips_are_refused(
  size: tuple[int, int], mode: image.Mode
) -> None:
  with pytest.raises(UserError, match="too long for its width"):
    image.preprocess(Image.new("RGB", size), 336, mode)
