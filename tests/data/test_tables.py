"""Tables: pictures stay inside until they are asked for, a few at a time."""

import json
import pickle
import random
import subprocess
import sys

import pytest

from povid_jax.data.samples import iter_samples, read_samples
from povid_jax.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(i: int, size: int = 200) -> bytes:
  return f"picture {i} ".encode() * (size // 10)


def named(i: int) -> dict:
  return {"bytes": picture(i), "path": f"{i}.jpg"}


def table(count: int, images=named, kind=IMAGE, start: int = 0):
  ids = range(start, start + count)
  return pa.table(
    {
      "image": pa.array([images(i) for i in ids], kind),
      "question": [f"What is {i}?" for i in ids],
      "chosen": [f"A {i}." for i in ids],
      "rejected": [f"B {i}." for i in ids],
    }
  )


def save(path, data, groups=7):
  if path.suffix == ".parquet":
    pq.write_table(data, path, row_group_size=groups)
  else:
    with pa.OSFile(str(path), "wb") as file:
      kind = pa.ipc.new_stream if path.stem != "file" else pa.ipc.new_file
      with kind(file, data.schema) as writer:
        writer.write_table(data, max_chunksize=groups)
  return path


FILES = ["t.parquet", "t.arrow", "file.arrow"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("groups", [7, 1000])
def test_rows_and_their_pictures(tmp_path, name, groups):
  path = save(tmp_path / name, table(50), groups)
  said: list[str] = []
  samples = read_samples(path, announce=said.append)
  assert "50 rows of SPA-VL; 50 pairs" in said[0]
  assert [s.turns[0] for s in samples] == [
    f"<image>\nWhat is {i}?" for i in range(50)
  ]
  assert samples[3].images[0].name == "3.jpg"
  order = list(range(50)) + random.Random(0).sample(range(50), 50)
  for i in order:
    again = pickle.loads(pickle.dumps(samples[i]))  # a worker's copy
    assert again.images[0].read() == picture(i)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
  ("kind", "make", "want"),
  [
    (pa.binary(), lambda i: picture(i), lambda i: [picture(i)]),
    (
      pa.binary(),
      lambda i: picture(i) if i % 2 else None,
      lambda i: [picture(i)] if i % 2 else [],
    ),
    (
      pa.struct([("bytes", pa.binary())]),
      lambda i: {"bytes": picture(i)},
      lambda i: [picture(i)],
    ),
    (
      pa.list_(IMAGE),
      lambda i: [{"bytes": picture(i * 9 + j), "path": None} for j in range(i)],
      lambda i: [picture(i * 9 + j) for j in range(i)],
    ),
    (
      pa.list_(pa.binary()),
      lambda i: [picture(i * 9 + j) for j in range(i)],
      lambda i: [picture(i * 9 + j) for j in range(i)],
    ),
    (
      IMAGE,
      lambda i: {"bytes": None, "path": "f.jpg"} if i == 2 else None,
      lambda i: [b"file"] if i == 2 else [],
    ),
  ],
)
def test_the_ways_in_which_a_cell_holds_pictures(
  tmp_path, name, kind, make, want
):
  path = save(tmp_path / name, table(5, make, kind), 2)
  folder = path.with_name(f"{path.stem}.images")  # known without a flag
  folder.mkdir()
  (folder / "f.jpg").write_bytes(b"file")
  for i, sample in enumerate(read_samples(path)):
    assert [p.read() for p in sample.images] == want(i)
    assert sample.turns[0].count("<image>") == len(want(i))


def test_trl_in_parquet(tmp_path):
  part = {"type": "text", "text": "x"}
  rows = [
    {
      "images": [{"bytes": picture(1), "path": None}],
      "prompt": [
        {
          "role": "user",
          "content": [
            {"type": "image", "text": None},
            part | {"text": "What?"},
          ],
        }
      ],
      "chosen": [{"role": "assistant", "content": [part | {"text": "A."}]}],
      "rejected": [{"role": "assistant", "content": [part | {"text": "B."}]}],
    }
  ]
  path = save(tmp_path / "t.parquet", pa.Table.from_pylist(rows))
  (sample,) = read_samples(path)
  assert sample.turns == ("<image>\nWhat?", "A.")
  assert sample.rejected == ("<image>\nWhat?", "B.")
  assert sample.images[0].read() == picture(1)


def test_folders_of_tables(tmp_path):
  hub = tmp_path / "hub/data"
  hub.mkdir(parents=True)
  save(hub / "train-00000-of-00002.parquet", table(3))
  save(hub / "train-00001-of-00002.parquet", table(3, start=3))
  save(hub / "test-00000-of-00001.parquet", table(1))
  found = read_samples(tmp_path / "hub")
  assert [s.turns[1] for s in found] == [f"A {i}." for i in range(6)]
  saved = tmp_path / "saved"
  (saved / "train").mkdir(parents=True)
  save(saved / "train/data-00000-of-00001.arrow", table(4))
  (saved / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
  (saved / "train/state.json").write_text(
    json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
  )
  for folder in (saved, saved / "train"):
    found = read_samples(folder)
    assert [s.images[0].read() for s in found] == [picture(i) for i in range(4)]
  (saved / "train/data-00000-of-00001.arrow").unlink()
  with pytest.raises(UserError, match="no such file, but .*state.json"):
    read_samples(saved)
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="is a folder without tables"):
    read_samples(tmp_path / "empty")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
  "data", [b"", b"PAR1" + bytes(range(256)) + b"PAR1", b"x" * 999]
)
def test_files_that_are_no_tables(tmp_path, name, data):
  path = tmp_path / name
  path.write_bytes(data)
  with pytest.raises(UserError, match=f"{name}: not a readable table"):
    read_samples(path)


@pytest.mark.parametrize("name", FILES)
def test_a_table_cut_short(tmp_path, name):
  path = save(tmp_path / name, table(50))
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(UserError, match=f"{name}: not a readable table"):
    read_samples(path)


_PEAK = """
import re, sys
from povid_jax.data.samples import iter_samples
seen = 0
for sample in iter_samples(sys.argv[1]):
  seen += len(sample.images[0].read())
print(seen, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def _peak(path) -> tuple[int, float]:
  """(bytes of all pictures, greatest memory in MiB) of one pass."""
  done = subprocess.run(
    [sys.executable, "-c", _PEAK, str(path)],
    capture_output=True,
    text=True,
    check=True,
  )
  size, peak = map(int, done.stdout.split())
  return size, peak / 1024


def _large(path, rows: int, size: int):
  """A parquet file of random pictures."""
  draw = random.Random(0)
  images = lambda i: {"bytes": draw.randbytes(size), "path": f"{i}.jpg"}
  schema = table(1).schema
  with pq.ParquetWriter(path, schema, compression="none") as writer:
    for start in range(0, rows, 1000):
      many = table(min(1000, rows - start), images, start=start)
      writer.write_table(many, row_group_size=100)  # as `datasets` does
  return path


def _check_constant(tmp_path, rows: int, size: int) -> None:
  small, low = _peak(_large(tmp_path / "s.parquet", rows // 4, size))
  large, high = _peak(_large(tmp_path / "l.parquet", rows, size))
  assert large == 4 * small == rows * size
  # In MiB. What grows are the ids, a counter each.
  assert high - low < 20 + rows / 5000, (low, high)


def test_memory_does_not_grow_with_the_rows(tmp_path):
  _check_constant(tmp_path, rows=4000, size=40_000)


@pytest.mark.slow
def test_a_hundred_thousand_rows_in_constant_memory(tmp_path):
  _check_constant(tmp_path, rows=100_000, size=10_000)


def test_ids_do_not_depend_on_the_files_of_a_table(tmp_path):
  one = save(tmp_path / "one.parquet", table(4))
  two = save(tmp_path / "two.arrow", table(4))
  ids = [[s.id for s in iter_samples(path)] for path in (one, two)]
  assert ids[0] == ids[1]
