import os
import pickle
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grain
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


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
  """23 records in the 3 shards of `train`, 2 in the one of `val`."""
  path = tmp_path / "data"
  for split, shards in (("train", [range(9), range(9, 10), range(10, 23)]),
                        ("val", [range(100, 102)])):  # fmt: skip
    for i, rows in enumerate(shards):
      name = records.shard_name(split, i, len(shards))
      with records.RecordWriter(path / name) as writer:
        for row in rows:
          writer.write(record(row))
  return path


def shard(folder: Path, i: int = 0) -> Path:
  return folder / records.shard_name("train", i, 3)


def index_file(folder: Path) -> Path:
  (path,) = folder.glob(".povid-train*.index")
  return path


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
    (records.encode(RECORD)[:-1], "not a tf.train.Example"),
    (b"\x0f", "not a tf.train.Example"),
    (b"\xff" * 11, "not a tf.train.Example"),
    (b"\x08\x01", "feature id is missing"),
    (b"\x0a\x0b\x0a\x09\x12\x07\x12\x05\x0a\x03abc", "not a tf.train.Example"),
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


def test_any_record_at_any_time(folder: Path) -> None:
  source = records.RecordSource(folder, "train")
  assert len(source) == 23
  for i in (22, 0, 9, 8, 10, 3):
    assert source[i] == record(i)
  assert source.locate(9) == (shard(folder, 1), 0)
  assert len(records.RecordSource(folder, "val")) == 2
  pattern = records.RecordSource(folder / "povid-train*")
  assert len(pattern) == 23
  for i in (23, -1):
    with pytest.raises(IndexError, match=f"record {i} of 23"):
      source[i]


def test_workers_and_threads(folder: Path) -> None:
  source = records.RecordSource(folder)
  source[0]
  copy = pickle.loads(pickle.dumps(source))
  assert [copy[i].id for i in range(23)] == [f"id{i}" for i in range(23)]
  assert repr(copy) == repr(source)
  wrong: list[int] = []

  def read() -> None:
    wrong.extend(i for i in range(23) if source[i] != record(i))

  threads = [threading.Thread(target=read) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong


def test_grain_reads_it(folder: Path) -> None:
  source = records.RecordSource(folder)
  dataset = grain.MapDataset.source(source).shuffle(seed=1)
  assert sorted(r.noise_seed for r in dataset) == list(range(23))


def test_more_shards_than_descriptors(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(records, "_MAX_OPEN", 2)
  for i in range(6):
    name = records.shard_name("train", i, 6)
    with records.RecordWriter(tmp_path / name) as writer:
      writer.write(record(i))
  source = records.RecordSource(tmp_path)
  before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0
  for _ in range(3):
    assert [source[i].id for i in range(6)] == [f"id{i}" for i in range(6)]
  if before:
    assert len(os.listdir("/proc/self/fd")) == before + 2
    del source
    assert len(os.listdir("/proc/self/fd")) == before


def test_empty_shards_are_fine(tmp_path: Path) -> None:
  for i in range(3):
    name = records.shard_name("train", i, 3)
    with records.RecordWriter(tmp_path / name) as writer:
      if i == 1:
        writer.write(record(5))
  source = records.RecordSource(tmp_path)
  assert len(source) == 1 and source[0] == record(5)
  assert source.locate(0)[0] == shard(tmp_path, 1)


def test_index_is_made_once(
  folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  first = records.RecordSource(folder)
  assert index_file(folder).is_file()

  def walked(path: Path) -> list:
    raise AssertionError(f"{path} walked again")

  monkeypatch.setattr(records.record_index, "_walk", walked)
  again = records.RecordSource(folder)
  assert again[22] == record(22)
  assert again.fingerprint() == first.fingerprint()
  with open(shard(folder), "ab") as file:
    file.write(b"x")
  with pytest.raises(AssertionError, match="walked again"):
    records.RecordSource(folder)


def test_changed_shards_are_walked_again(folder: Path) -> None:
  before = records.RecordSource(folder).fingerprint()
  with records.RecordWriter(shard(folder, 1)) as writer:
    writer.write(record(10))  # as long as the record it takes the place of
    writer.write(record(11))
  source = records.RecordSource(folder)
  assert len(source) == 24 and source[9].id == "id10"
  assert source.fingerprint() != before


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
def test_broken_index_is_made_anew(folder: Path, content: bytes) -> None:
  records.RecordSource(folder)
  index_file(folder).write_bytes(content)
  assert records.RecordSource(folder)[5] == record(5)


def test_read_only_folder_uses_the_cache(
  folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  real = records.record_index.atomic_write

  def refuse(path: Path, mode: str) -> object:
    if folder in Path(path).parents:  # root may write anywhere, so pretend
      raise UserError("cannot write")
    return real(path, mode)

  monkeypatch.setattr(records.record_index, "atomic_write", refuse)
  assert len(records.RecordSource(folder)) == 23
  assert not list(folder.glob(".*"))
  assert len(list((tmp_path / "cache").rglob("*.index"))) == 1
  monkeypatch.setattr(records.record_index, "_walk", None)
  assert records.RecordSource(folder)[0] == record(0)


def test_fingerprint_is_of_the_content(folder: Path, tmp_path: Path) -> None:
  source = records.RecordSource(folder)
  moved = tmp_path / "moved"
  folder.rename(moved)
  assert records.RecordSource(moved).fingerprint() == source.fingerprint()
  data = bytearray(shard(moved).read_bytes())
  (row,) = [i for i in range(9) if record(i).id == "id3"]
  at = data.index(b"id3") + 2
  data[at : at + 1] = b"9"  # the same length, and a CRC to go with it
  start = records.RecordSource(moved)._index.offsets[row]
  end = start + records.RecordSource(moved)._index.lengths[row]
  payload = bytes(data[start:end])
  data[end : end + 4] = struct.pack("<I", records.masked_crc(payload))
  shard(moved).write_bytes(data)
  other = records.RecordSource(moved)
  assert other[3].id == "id9"
  assert other.fingerprint() != source.fingerprint()


def flip(at: int) -> Callable[[Path], None]:
  def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)

  return damage


def cut(count: int) -> Callable[[Path], None]:
  return lambda path: os.truncate(path, path.stat().st_size - count)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (flip(0), "record 0: wrong CRC of the length"),
    (flip(9), "record 0: wrong CRC of the length"),
    (cut(1), "record 8: the file is truncated, 1 bytes missing"),
    (lambda path: path.write_bytes(b"short"), "record 0: .*in a header"),
    (lambda path: path.write_bytes(b"not a TFRecord"), "not a TFRecord file"),
    (Path.unlink, "00000-of-00003 is missing"),
  ],
)
def test_damaged_shards_are_named_on_opening(
  folder: Path, damage: Callable[[Path], None], message: str
) -> None:
  damage(shard(folder))
  with pytest.raises(UserError, match=message) as caught:
    records.RecordSource(folder)
  assert "povid-train" in str(caught.value)


def test_damaged_data_is_named_on_reading(folder: Path) -> None:
  flip(40)(shard(folder))
  source = records.RecordSource(folder)
  with pytest.raises(UserError, match="00000-of-00003, record 0: wrong CRC"):
    source[0]
  assert source[1] == record(1)


def test_not_our_example_is_named_on_reading(tmp_path: Path) -> None:
  with records.RecordWriter(tmp_path / "x.tfrecord") as writer:
    writer.write(record(0))
    writer.write(example.encode_example({"text": [b"x"]}))
  source = records.RecordSource(tmp_path / "x.tfrecord")
  with pytest.raises(UserError, match="x.tfrecord, record 1: feature id is"):
    source[1]


def test_cut_or_gone_after_opening(folder: Path) -> None:
  source = records.RecordSource(folder)
  cut(10)(shard(folder, 2))
  with pytest.raises(UserError, match="record 12: the file ends too early"):
    source[22]
  shard(folder, 1).unlink()
  with pytest.raises(UserError, match="00001-of-00003: No such file"):
    source[9]


def test_nothing_there(folder: Path, tmp_path: Path) -> None:
  with pytest.raises(UserError, match="no shards povid-test.tfrecord"):
    records.RecordSource(folder, "test")
  with pytest.raises(UserError, match="no file matches"):
    records.RecordSource(tmp_path / "none" / "*")


def test_two_datasets_in_one_folder(folder: Path) -> None:
  with records.RecordWriter(folder / records.shard_name("train", 0, 1)) as w:
    w.write(record(0))
  with pytest.raises(UserError, match="two different counts"):
    records.RecordSource(folder)


@pytest.mark.slow
def test_a_hundred_thousand_open_in_a_second(tmp_path: Path) -> None:
  for i in range(4):
    with records.RecordWriter(
      tmp_path / records.shard_name("train", i, 4)
    ) as writer:
      for row in range(25_000):
        writer.write(record(row))
  first = records.RecordSource(tmp_path)
  start = time.process_time()
  source = records.RecordSource(tmp_path)
  assert source[99_999] == first[24_999] == record(24_999)
  assert time.process_time() - start < 1  # 0.003 s on the machine it was made
