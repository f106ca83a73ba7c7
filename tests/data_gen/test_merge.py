"""Files of shards joined: their pictures come along."""

import pytest

from data_gen import __main__ as data_gen
from povid_jax.data.pairs import Sample, pictures_folder, write_samples
from povid_jax.data.picture import Picture
from povid_jax.data.samples import read_samples
from povid_jax.errors import UserError


def _pair(number: int, picture: Picture, said: str = "A dog.") -> Sample:
  question = "<image>\nWhat is there?"
  turns, rejected = (question, said), (question, "A cat.")
  return Sample(f"p{number}", (picture,), turns, rejected)


def _merge(root, *parts: str) -> list[Sample]:
  files = [str(root / part) for part in parts]
  out = root / "all" / "pairs.jsonl"
  assert data_gen.main(["merge", *files, f"--out={out}"]) == 0
  return list(read_samples(out))


def test_pictures_of_tables_are_copied(tmp_path):
  from_table = [Picture(str(i), data=b"picture %d" % i) for i in range(3)]
  write_samples(tmp_path / "a.jsonl", [_pair(2, from_table[2])])
  more = [_pair(i, from_table[i]) for i in (0, 1)]
  write_samples(tmp_path / "b.jsonl", more)
  merged = _merge(tmp_path, "a.jsonl", "b.jsonl", "b.jsonl")
  assert [pair.id for pair in merged] == ["p0", "p1", "p2"]
  for part in ("a", "b"):  # the result stands alone
    for path in pictures_folder(tmp_path / f"{part}.jsonl").iterdir():
      path.unlink()
  assert [pair.images[0].read() for pair in merged] == [
    b"picture 0",
    b"picture 1",
    b"picture 2",
  ]


def test_named_files_stay_where_they_are(tmp_path):
  write_samples(tmp_path / "a.jsonl", [_pair(0, Picture("a.jpg"))])
  merged = _merge(tmp_path, "a.jsonl")
  assert [pair.images[0].name for pair in merged] == ["a.jpg"]
  assert not pictures_folder(tmp_path / "all" / "pairs.jsonl").exists()


def test_one_id_with_two_pairs_is_refused(tmp_path):
  picture = Picture("a.jpg")
  write_samples(tmp_path / "a.jsonl", [_pair(0, picture)])
  write_samples(tmp_path / "b.jsonl", [_pair(0, picture, "A bus.")])
  with pytest.raises(UserError, match="another pair"):
    _merge(tmp_path, "a.jsonl", "b.jsonl")


def test_a_pattern_brings_journals_along(tmp_path):
  picture = Picture("x", data=b"picture")
  write_samples(tmp_path / "part-0.jsonl", [_pair(0, picture)])
  (tmp_path / "part-0.journal.jsonl").write_text('{"id": "p0"}\n')
  (tmp_path / "part-0.rejected.jsonl").write_text('{"id": "p1"}\n')
  names = sorted(path.name for path in tmp_path.glob("part-*.jsonl"))
  assert len(names) == 3
  assert [pair.id for pair in _merge(tmp_path, *names)] == ["p0"]
