"""Folders of records after what happens to them: copies, cuts, compression."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from povid_jax.data import records
from povid_jax.errors import UserError


def record(i: int) -> records.Record:
  return records.Record(
    f"id{i}", (b"x" * i,), None, -1, i, ("q",), ("a",), ("b",), "", ""
  )


def write(path: Path, *numbers: int) -> None:
  with records.RecordWriter(path) as writer:
    for i in numbers:
      writer.write(record(i))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  path = tmp_path / "data"
  write(shard(path, 0), 0, 1, 2)
  write(shard(path, 1), 3, 4)
  split = {"name": "train", "shardLengths": ["3", "2"]}
  info = path / "dataset_info.json"
  info.write_text(json.dumps({"splits": [split]}))
  return path


def shard(folder: Path, i: int) -> Path:
  return folder / records.shard_name("train", i, 2)


def ids(folder: Path) -> list[str]:
  source = records.RecordSource(folder)
  return [source[i].id for i in range(len(source))]


ALL = [f"id{i}" for i in range(5)]


def test_a_whole_folder(folder: Path) -> None:
  assert ids(folder) == ALL
  (folder / "dataset_info.json").unlink()
  assert ids(folder) == ALL


@pytest.mark.parametrize("ending", [" (1)", ".bak", "~", " 2", ".gz", ".tmp"])
def test_copies_beside_a_shard_are_none(folder: Path, ending: str) -> None:
  for i in range(2):
    path = shard(folder, i)
    shutil.copy(path, path.with_name(path.name + ending))
  assert ids(folder) == ALL


@pytest.mark.parametrize(
  ("numbers", "found"), [((), 0), ((3,), 1), ((3, 4, 5), 3)]
)
def test_a_shard_with_other_records_than_it_had(
  folder: Path, numbers: tuple[int, ...], found: int
) -> None:
  assert ids(folder) == ALL  # an index of the shards as they were is kept
  write(shard(folder, 1), *numbers)
  with pytest.raises(UserError, match=f"00001-of-00002: holds {found} records"):
    records.RecordSource(folder)


def test_a_shard_in_the_place_of_another(folder: Path) -> None:
  write(shard(folder, 0), 0, 1)
  (folder / "dataset_info.json").unlink()
  shutil.copy(shard(folder, 0), shard(folder, 1))
  with pytest.raises(UserError, match="holds the same records as povid-train"):
    records.RecordSource(folder)
  for i in range(2):
    write(shard(folder, i))  # two empty ones are no copies
  assert ids(folder) == []


def test_shards_of_another_number_than_the_folder_has(folder: Path) -> None:
  for i in range(2):
    shard(folder, i).rename(folder / records.shard_name("train", i, 3))
  write(folder / records.shard_name("train", 2, 3), 9)
  with pytest.raises(UserError, match="3 shards of train, .* says 2"):
    records.RecordSource(folder)


@pytest.mark.parametrize(
  "damage",
  [
    lambda text: text[:-9],
    lambda text: "[1]",
    lambda text: text.replace("shardLengths", "lengths"),
    lambda text: text.replace('"3"', '"x"'),
    lambda text: text.replace('"3"', "1e999"),
    lambda text: '{"splits": 5}',
  ],
)
def test_a_damaged_description_is_named(
  folder: Path, damage: Callable[[str], str]
) -> None:
  info = folder / "dataset_info.json"
  info.write_text(damage(info.read_text()))
  with pytest.raises(UserError, match="dataset_info.json"):
    records.RecordSource(folder)


def test_compressed_shards_are_named(folder: Path) -> None:
  path = shard(folder, 0)
  path.write_bytes(gzip.compress(path.read_bytes()))
  with pytest.raises(UserError, match="00000-of-00002: .*compressed with GZIP"):
    records.RecordSource(folder)
