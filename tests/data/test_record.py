"""One record as bytes: the format is the published one, damage is named."""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from povid_jax.data import example, records
from povid_jax.errors import UserError

RECORD = records.Record(
  id="a",
  images=(b"\xff\xd8jpeg", b""),
  image_noisy=b"webp",
  noise_step=500,
  noise_seed=2**63 - 1,
  prompt_turns=("<image>\nWhat?",),
  chosen=("Ein Bär 🐻.", "Sure?", "Yes."),
  rejected=(),
  category="object",
  injector="rules/1",
)


def record(i: int) -> records.Record:
  return records.Record(
    f"id{i}", (bytes([i % 256]) * (i % 50),), None, -1, i, ("q",), ("a",),
    ("b",), "", "",
  )  # fmt: skip


def test_record_survives_the_wire() -> None:
  for original in (RECORD, record(3)):
    assert records.decode(records.encode(original)) == original


def test_wire_is_the_published_one() -> None:
  """Bytes worked out by hand from the .proto files."""
  got = example.encode_example({"b": [-1, 300], "a": [b"xy", b""], "c": []})
  a = b"\x0a\x01a" + b"\x12\x08" + b"\x0a\x06" + b"\x0a\x02xy" + b"\x0a\x00"
  ints = b"\xff" * 9 + b"\x01" + b"\xac\x02"
  b = b"\x0a\x01b" + b"\x12\x10" + b"\x1a\x0e" + b"\x0a\x0c" + ints
  c = b"\x0a\x01c" + b"\x12\x02" + b"\x0a\x00"
  body = b"".join(b"\x0a" + bytes([len(entry)]) + entry for entry in (a, b, c))
  assert got == b"\x0a" + bytes([len(body)]) + body
  want = {"a": [b"xy", b""], "b": [-1, 300], "c": []}
  assert example.decode_example(got) == want


def field(number: int, payload: bytes) -> bytes:
  size = len(payload)
  length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
  return bytes([number << 3 | 2]) + length + payload


def test_features_are_in_the_order_of_their_names() -> None:
  """Also where one name begins another, which maps sort otherwise."""
  names = ["image", "image_noisy", "id", "imag"]
  data = example.encode_example({name: [b"."] for name in names})
  places = [data.index(name.encode() + b"\x12") for name in sorted(names)]
  assert places == sorted(places)


def test_reads_what_tensorflow_writes() -> None:
  """Maps in any order, value before key, floats, empty lists left out."""
  text = lambda *values: field(1, b"".join(field(1, v) for v in values))
  features = {
    b"prompt_turns": text(b"q"),
    b"noise_seed": field(3, b"\x08\x05"),  # not packed
    b"noise_step": field(3, field(1, b"\xff" * 9 + b"\x01")),  # -1
    b"score": field(2, field(1, struct.pack("<2f", 0.5, 2))),  # not ours
    b"image": text(b"jpeg"),
    b"injector": text(b""),
    b"id": text(b"x"),
    b"chosen": text(b"a", b"q", b"b"),
    b"category": text(b"c"),
  }
  entries = b"".join(
    field(1, field(2, value) + field(1, name))
    for name, value in features.items()
  )
  unknown = b"\x38\x07" + b"\x31" + bytes(8) + b"\x2d" + bytes(4)
  got = records.decode(unknown + field(1, entries))
  assert got == records.Record(
    "x", (b"jpeg",), None, -1, 5, ("q",), ("a", "q", "b"), (), "c", ""
  )
  data = example.decode_example(field(1, entries))
  assert data["score"] == [0.5, 2.0]


def without(name: str, *value: object) -> bytes:
  features = example.decode_example(records.encode(RECORD))
  del features[name]
  return example.encode_example(
    features | ({name: list(value)} if value else {})
  )


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "feature id is missing"),
    (without("chosen"), "feature chosen is missing"),
    (without("id", b"a", b"b"), "feature id has 2 values, want one"),
    (without("id", b"\xff"), "utf-8"),
    (without("noise_seed", b"7"), "noise_seed: want a list of int"),
    (without("prompt_turns", 7), "prompt_turns: want a list of bytes"),
    (without("image_noisy", b"a", b"b"), "image_noisy has 2 values"),
    (records.encode(RECORD)[:-1], "want a serialised tf.train.Example"),
    (b"\x0f", "want a serialised tf.train.Example"),
    (b"\xff" * 11, "want a serialised tf.train.Example"),
    (b"\x08\x01", "feature id is missing"),
    (
      b"\x0a\x0b\x0a\x09\x12\x07\x12\x05\x0a\x03abc",
      "want a serialised tf.train.Example",
    ),
  ],
)
def test_bad_examples_are_named(data: bytes, message: str) -> None:
  with pytest.raises(UserError, match=f"not a preference record: .*{message}"):
    records.decode(data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_our_error_or_a_record(data: st.DataObject) -> None:
  good = bytearray(records.encode(RECORD))
  for _ in range(data.draw(st.integers(1, 4))):
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] = data.draw(st.integers(0, 255))
  cut = data.draw(st.integers(0, len(good)))
  try:
    assert isinstance(records.decode(bytes(good[:cut])), records.Record)
  except UserError:
    pass


def test_half_a_surrogate_cannot_be_written() -> None:
  bad = records.Record("a", (), None, -1, 0, ("\ud800",), (), (), "", "")
  with pytest.raises(UserError, match="record 'a': .*surrogates"):
    records.encode(bad)


def test_framing_is_the_published_one(tmp_path: Path) -> None:
  path = tmp_path / "x.tfrecord"
  with records.RecordWriter(path) as writer:
    writer.write(b"123456789")
  # CRC32C("123456789") is 0xe3069283 (RFC 3720).
  crc = 0xE3069283
  masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
  length = struct.pack("<Q", 9)
  head = length + struct.pack("<I", records.masked_crc(length))
  assert path.read_bytes() == head + b"123456789" + struct.pack("<I", masked)


def test_nothing_is_left_of_a_writer_that_failed(tmp_path: Path) -> None:
  with pytest.raises(ZeroDivisionError):
    with records.RecordWriter(tmp_path / "x.tfrecord") as writer:
      writer.write(b"x")
      raise ZeroDivisionError
  assert not list(tmp_path.iterdir())
