"""The picture of README.md: answers before and after tuning."""

import json

import pytest
from PIL import Image

from benchmarks import before_after
from povid_jax.errors import UserError

_RED = (198, 40, 40)


def _folder(path, *invented: bool):
  """An --out folder: one answer a picture, with or without a dog."""
  path.mkdir()
  answers, verdicts = [], []
  for key, wrong in enumerate(invented):
    text = "A street. There is a dog." if wrong else "A street."
    at = text.find("dog")
    mention = {"object": "dog", "start": at, "end": at + 3}
    found = [{**mention, "hallucinated": True}] if wrong else []
    row = {"benchmark": "chair", "question_id": key}
    answers.append({**row, "text": text})
    verdicts.append({**row, "hallucinated": ["dog"][:wrong], "mentions": found})
  for name, rows in (("answers", answers), ("verdicts", verdicts)):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (path / f"{name}.jsonl").write_text(lines)
  return path


def _scenes(path, count: int):
  (path / "images").mkdir(parents=True)
  (path / "annotations").mkdir()
  images = [{"id": i, "file_name": f"{i}.png"} for i in range(count)]
  for image in images:
    Image.new("RGB", (8, 6)).save(path / "images" / image["file_name"])
  document = json.dumps({"images": images, "annotations": []})
  (path / "annotations" / "instances_test.json").write_text(document)
  return path


def _reds(path, box=None) -> int:
  picture = Image.open(path).convert("RGB").crop(box)
  return sum(n for n, c in picture.getcolors(1 << 24) or () if c == _RED)


def test_what_was_invented_is_red(tmp_path):
  before = _folder(tmp_path / "a", True, False)
  after = _folder(tmp_path / "b", False, False)
  scenes, out = _scenes(tmp_path / "s", 2), tmp_path / "x.png"
  argv = [str(before), str(after), f"--scenes={scenes}", f"--out={out}"]
  assert before_after.main(argv) == 0
  assert out.stat().st_size < 200_000
  right = before_after._CELL[0]
  assert _reds(out, (0, 0, right, 120)) > 20  # before, of the one picture
  assert _reds(out, (0, 120, 2 * right, 272)) == 0  # after: nothing


def test_nothing_to_show_is_said(tmp_path):
  right = _folder(tmp_path / "a", False)
  scenes = _scenes(tmp_path / "s", 1)
  argv = [f"--scenes={scenes}", f"--out={tmp_path / 'x.png'}"]
  with pytest.raises(UserError, match="no picture about which"):
    before_after.main([str(right), str(right), *argv])
  with pytest.raises(UserError, match=r"no answers\.jsonl"):
    before_after.main([str(scenes), str(right), *argv])
