"""Folders of shards: any record at any time, in workers, after damage."""

import os
import pickle
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grain
import pytest

from povid_jax.data import example, records
from povid_jax.errors import UserError


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
