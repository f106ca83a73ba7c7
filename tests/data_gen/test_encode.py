"""From a sample to a record: checks by name, pictures, stored noise."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data_gen import encode
from data_gen.encode import Options
from povid_jax.data import noise, records
from povid_jax.data.pairs import Sample
from povid_jax.data.records import Rejected
from povid_jax.errors import UserError


def sample(turns=("<image>\nWhat?", "A dog."), rejected=None, **changes):
  if rejected is not None:
    rejected = (turns[0], *rejected)
  fields = {"id": "a", "images": ("0.png",)} | changes
  return Sample(turns=turns, rejected=rejected, **fields)


def to_record(made, options):
  return encode.to_record(made.within(options.image_dir), options)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"turns": ("What?", "A dog.")},
      "<image> 0 times, but the field image lists 1",
    ),
    ({"turns": ("<image><image>?", "A dog.")}, "<image> 2 times"),
    ({"images": ()}, "<image> 1 times, but the field image lists 0"),
    ({"turns": ("<image>?", "A <image>.")}, "an answer contains <image>"),
    ({"rejected": ("A <image>",)}, "an answer contains <image>"),
    ({"rejected": ("A dog.",)}, "is equal to conversations"),
  ],
)
def test_conversations_that_cannot_be_trained_on(changes, message):
  with pytest.raises(UserError, match=message):
    encode.check_turns(sample(**changes))


def test_a_picture_may_be_asked_about_in_any_turn():
  turns = ("Hello?", "Yes?", "<image>\nAnd this?", "A cat.")
  encode.check_turns(sample(turns=turns))


def test_a_record_keeps_the_answer_so_far(tmp_path, photos):
  photos.make_images(tmp_path, 1)
  changes = {"context": "A table.", "end_scored": False}
  options = Options("p.jsonl", str(tmp_path))
  record = to_record(sample(**changes), options)
  assert (record.context, record.end_scored) == ("A table.", False)
  record = to_record(sample(), options)
  assert (record.context, record.end_scored) == ("", None)


def bomb(side: int) -> bytes:
  """A PNG of a hundred bytes that says it is so many pixels square."""

  def chunk(kind, data):
    body = kind + data
    return (
      struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    )

  header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    [
      chunk(b"IHDR", header),
      chunk(b"IDAT", zlib.compress(b"\0" * 100)),
      chunk(b"IEND", b""),
    ]
  )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("verify", ["header", "full"])
@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (lambda data: data[: len(data) // 2], "broken"),
    (lambda data: data[:-2], "broken|truncated"),
    (lambda data: b"", "not a picture"),
    (lambda data: b"<html>no</html>", "not a picture"),
    # Pillow raises for the first and would only warn for the second.
    (lambda data: bomb(40_000), "refused, because it decodes to more"),
    (lambda data: bomb(12_000), "refused, because it decodes to more"),
  ],
)
def test_pictures_that_are_none(tmp_path, photos, spoil, message, verify):
  data = (photos.folder() / "rocket.jpg").read_bytes()
  (tmp_path / "0.png").write_bytes(spoil(data))
  options = Options("p.jsonl", str(tmp_path), verify=verify)
  with pytest.raises(UserError, match=message) as error:
    to_record(sample(), options)
  assert "0.png" in str(error.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_whole_pictures_pass(kind, photos):
  out = io.BytesIO()
  with Image.open(photos.folder() / "rocket.jpg") as image:
    image.resize((33, 21)).save(out, kind)
  encode.check_picture(out.getvalue(), "x")


def test_a_jpeg_with_bytes_after_its_end_passes(photos):
  data = (photos.folder() / "rocket.jpg").read_bytes()
  encode.check_picture(data + b"\0" * 10_000, "x")


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (200, 300)])
def test_stored_png_gives_the_pixels_back(shape):
  pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  with Image.open(io.BytesIO(encode.stored_png(pixels))) as image:
    image.load()
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("overflow", ["wrap", "clip"])
def test_stored_noise_is_the_noise_of_training(tmp_path, photos, overflow):
  photos.make_images(tmp_path, 1)
  options = Options(
    "p.jsonl", str(tmp_path), seed=3, store_noisy=True, overflow=overflow
  )
  record = to_record(sample(), options)
  seed = noise.seed_for(3, "a", None)
  with Image.open(tmp_path / "0.png") as image:
    want = noise.distort(np.asarray(image), 500, seed, overflow)
  with Image.open(io.BytesIO(record.image_noisy)) as image:
    np.testing.assert_array_equal(np.asarray(image), want)
  assert (record.noise_step, record.noise_seed) == (500, seed)


def test_a_noisy_picture_that_the_sample_names_is_kept(tmp_path, photos):
  photos.make_images(tmp_path, 2)
  extra = {"image_noisy": "1.jpg", "noise_step": 700}
  record = to_record(sample(extra=extra), Options("p.jsonl", str(tmp_path)))
  assert record.image_noisy == (tmp_path / "1.jpg").read_bytes()
  assert record.noise_step == 700


@pytest.mark.parametrize(
  "extra",
  [
    {"image_noisy": None},
    {"image_noisy": ["0.png"]},
    {"image_noisy": "../0.png"},
    {"image_noisy": "0.png", "noise_step": 1000},
    {"image_noisy": "0.png", "noise_step": True},
  ],
)
def test_a_bad_noisy_picture_is_named(tmp_path, photos, extra):
  photos.make_images(tmp_path, 1)
  with pytest.raises(UserError, match="image_noisy|noise_step|inside"):
    to_record(sample(extra=extra), Options("p.jsonl", str(tmp_path)))


def test_everything_of_a_sample_is_in_its_record(tmp_path, photos):
  photos.make_images(tmp_path, 2)
  turns = ("<image>a?", "A.", "<image>b?", "B.", "c?", "C.")
  record = to_record(
    Sample(
      id="é",
      images=("0.png", "1.jpg"),
      turns=turns,
      rejected=(*turns[:3], "X.", "c?", "Y."),
      extra={"category": "vqa", "injector": {"name": "rules", "seed": 1}},
    ),
    Options("p.jsonl", str(tmp_path), store_noisy=True),
  )
  names = ("0.png", "1.jpg")
  assert record.images == tuple((tmp_path / n).read_bytes() for n in names)
  assert record.prompt_turns == turns[:3]
  assert record.chosen == turns[3:]
  assert record.rejected == ("X.", "c?", "Y.")
  assert record.category == "vqa"
  assert record.injector == '{"name": "rules", "seed": 1}'
  # One noisy twin has a place in a record; several pictures have none.
  assert (record.image_noisy, record.noise_step) == (None, -1)


def test_a_noisy_picture_of_no_picture():
  lonely = sample(
    ("What?", "A dog."), images=(), extra={"image_noisy": "0.png"}
  )
  with pytest.raises(UserError, match="the sample has no image"):
    to_record(lonely, Options("pairs", "."))


@pytest.mark.parametrize("verify", ["header", "full"])
def test_damage_in_the_middle_of_a_noisy_picture(tmp_path, photos, verify):
  photos.make_images(tmp_path, 2)
  whole = io.BytesIO()
  pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  Image.fromarray(pixels).save(whole, "PNG")
  data = bytearray(whole.getvalue())
  data[4000:4400] = bytes(400)
  (tmp_path / "noisy.png").write_bytes(data)
  options = Options("pairs", str(tmp_path), verify=verify)
  brings = sample(extra={"image_noisy": "noisy.png"})
  if verify == "header":
    assert to_record(brings, options).image_noisy == bytes(data)
  else:
    with pytest.raises(UserError, match="image_noisy 'noisy.png'"):
      to_record(brings, options)


def test_what_stands_beside_a_pair_is_in_its_record(tmp_path, photos):
  photos.make_images(tmp_path, 1)
  turns = ("<image>\nWhat?", "A dog.", "Where?", "On grass.")
  more = (*turns[:3], "In water.")
  made = sample(
    turns,
    rejected=("A dog.", "Where?", "On sand."),
    system="Be brief.",
    context="It sits.",
    end_scored=False,
    rejected_weight=2.0,
    more_rejected=(Rejected(more, 0.5, 1),),
    more_chosen=((*turns[:3], "In a garden."),),
  )
  record = to_record(made, Options("pairs", str(tmp_path)))
  assert record.prompt_turns == turns[:3]
  assert (record.chosen, record.rejected) == (("On grass.",), ("On sand.",))
  assert record.more_rejected == (Rejected(("In water.",), 0.5, 1),)
  assert record.more_chosen == (("In a garden.",),)
  assert (record.context, record.end_scored) == ("It sits.", False)
  assert (record.system, record.rejected_weight) == ("Be brief.", 2.0)
  again = records.decode(records.encode(record))
  assert again == record
  assert records.optional(record) == set(records.OPTIONAL)
  plain = to_record(sample(), Options("pairs", str(tmp_path)))
  assert records.optional(plain) == set()


def test_a_context_belongs_to_the_last_answer():
  turns = ("<image>\nWhat?", "A dog.", "Where?", "On grass.")
  made = sample(turns, ("A cat.", "Where?", "On sand."), context="It sits.")
  with pytest.raises(UserError, match="differ before the last turn"):
    encode.check_turns(made)
