"""Pictures become data URLs of bounded size."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from povid_jax.errors import UserError
from povid_jax.llm import image_part


def save(path, size, mode="RGB", **options):
  pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3))
  Image.fromarray(pixels.astype("uint8")).convert(mode).save(path, **options)
  return path


def decode(part) -> tuple[str, bytes]:
  head, _, data = part["image_url"]["url"].partition(";base64,")
  return head, base64.b64decode(data)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_small_pictures_are_sent_as_they_are(tmp_path, name):
  path = save(tmp_path / name, (64, 48))
  part, width, height = image_part(path.read_bytes())
  head, data = decode(part)
  assert (width, height) == (64, 48) and data == path.read_bytes()
  assert head == ("data:image/jpeg" if name == "a.jpg" else "data:image/png")


@pytest.mark.parametrize(
  ("name", "mode"), [("a.jpg", "RGB"), ("a.webp", "RGB"), ("a.png", "P")]
)
def test_large_and_other_ones_are_made_jpegs_within_bounds(
  tmp_path, name, mode
):
  part, width, height = image_part(
    save(tmp_path / name, (400, 200), mode).read_bytes(), 100
  )
  head, data = decode(part)
  assert head == "data:image/jpeg" and (width, height) == (100, 50)
  assert Image.open(io.BytesIO(data)).size == (100, 50)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_named(tmp_path, data):
  path = tmp_path / "a.jpg"
  path.write_bytes(data)
  with pytest.raises(UserError):
    image_part(path.read_bytes())


def test_a_truncated_picture_is_not_sent(tmp_path):
  path = save(tmp_path / "a.jpg", (300, 200))
  path.write_bytes(path.read_bytes()[:-5000])
  with pytest.raises(UserError, match="truncated"):
    image_part(path.read_bytes())


def test_a_small_picture_in_a_large_file_is_made_smaller(tmp_path):
  path = save(tmp_path / "a.jpg", (64, 48))
  end = b"\xff\xfe\xff\xff" + b"c" * 65533  # a comment, many times
  data = path.read_bytes()
  path.write_bytes(data[:2] + end * 30 + data[2:])
  part, width, height = image_part(path.read_bytes())
  assert (width, height) == (64, 48) and len(decode(part)[1]) < 20_000


def test_a_bomb_is_refused(tmp_path, monkeypatch):
  path = save(tmp_path / "a.bmp", (400, 200))
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
  with pytest.raises(UserError):
    image_part(path.read_bytes())
