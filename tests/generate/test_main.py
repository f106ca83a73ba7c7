"""The command: questions in, LLaVA's answer rows out, resumable."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from povid_jax.errors import UserError
from povid_jax.generate import __main__ as generate
from tests import small_world

pytestmark = pytest.mark.usefixtures("one_device")

ROOT = Path(generate.__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """model/, photos/ with three pictures (one in a subfolder), questions."""
  root = tmp_path_factory.mktemp("generate")
  small_world.model_folder(root)
  (root / "photos/more").mkdir(parents=True)
  for i, name in enumerate(("b.png", "a.jpg", "more/c.PNG")):
    small_world.picture(i).save(root / "photos" / name)
  (root / "photos/notes.txt").write_text("no picture")
  rows = [
    {
      "question_id": "two",
      "image": ["b.png", "a.jpg"],
      "text": "<image>\n<image>\nA bus?",
    },
    {"question_id": 9, "text": "How many birds?", "category": "x"},
  ]
  (root / "questions.jsonl").write_text(
    "".join(json.dumps(row) + "\n\n" for row in rows)
  )
  return root


def _argv(world, out, **flags):
  flags = {
    "checkpoint": world / "model",
    "images": world / "photos",
    "prompt": "Describe this image.",
    "out": out,
    "max_new_tokens": 6,
    "batch_size": 2,
    **flags,
  }
  return [
    f"--{k.replace('_', '-')}={v}" for k, v in flags.items() if v is not None
  ]


def _rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def answered(world, tmp_path_factory):
  out = tmp_path_factory.mktemp("out") / "answers.jsonl"
  with small_world.one_device():
    assert generate.main(_argv(world, out)) == 0
  return out


def test_a_folder_is_asked_about_every_picture(answered):
  rows = _rows(answered)
  assert [r["question_id"] for r in rows] == ["a.jpg", "b.png", "more/c.PNG"]
  assert {r["prompt"] for r in rows} == {"Describe this image."}
  assert set(rows[0]) == {
    "question_id", "prompt", "text", "answer_id", "model_id", "metadata"
  }  # fmt: skip
  assert len({r["answer_id"] for r in rows}) == 3
  assert rows[0]["metadata"]["max_new_tokens"] == 6
  assert all(1 <= r["metadata"]["tokens"] <= 6 for r in rows)


def test_a_killed_run_continues_to_the_same_file(world, answered, tmp_path):
  whole = answered.read_bytes()
  lines = whole.splitlines(keepends=True)
  out = tmp_path / "answers.jsonl"
  # the second answer came first, the third was being written
  out.write_bytes(lines[1] + lines[2][:30])
  assert generate.main(_argv(world, out)) == 0
  assert out.read_bytes() == whole


def test_a_pattern(world, answered, tmp_path):
  out = tmp_path / "answers.jsonl"
  flags = {"images": f"{world}/photos/*.*g"}
  assert generate.main(_argv(world, out, **flags)) == 0
  texts = [r["text"] for r in _rows(answered)]
  assert [r["text"] for r in _rows(out)] == texts[:2]
  assert _rows(out)[0]["question_id"] == f"{world}/photos/a.jpg"


def test_a_marker_in_the_prompt_asks_for_no_second_picture(
  world, answered, tmp_path
):
  out = tmp_path / "answers.jsonl"
  prompt = "<image>\nDescribe this image."
  assert generate.main(_argv(world, out, prompt=prompt)) == 0
  assert out.read_bytes() == answered.read_bytes()


def test_questions_of_a_file(world, tmp_path):
  out = tmp_path / "answers.jsonl"
  flags = {
    "images": None,
    "prompt": None,
    "questions": world / "questions.jsonl",
    "image_dir": world / "photos",
  }
  assert generate.main(_argv(world, out, **flags)) == 0
  rows = _rows(out)
  assert [r["question_id"] for r in rows] == ["two", 9]
  assert [r["prompt"] for r in rows] == ["A bus?", "How many birds?"]


def test_answers_of_other_settings_are_not_continued(world, answered, tmp_path):
  out = tmp_path / "answers.jsonl"
  out.write_bytes(answered.read_bytes())
  for flags, message in (
    ({"temperature": 0.5}, "made with temperature=0.0, now it is 0.5"),
    ({"prompt": "Why"}, "prompt='Describe this image.', now it is 'Why'"),
    ({"max_new_tokens": 7}, "max_new_tokens=6, now it is 7"),
  ):
    with pytest.raises(UserError, match=message):
      generate.main(_argv(world, out, **flags))
  # what greedy decoding does not use may differ, and so may the batches
  assert generate.main(_argv(world, out, seed=3, batch_size=1)) == 0
  assert out.read_bytes() == answered.read_bytes()


def test_a_question_may_hold_other_line_ends(tmp_path):
  text = "A bus?\u2028Or \x85 a\x0ccar?"
  row = json.dumps({"question_id": 1, "text": text}, ensure_ascii=False)
  (tmp_path / "q.jsonl").write_bytes(f"{row}\r\n\n{row}".encode())
  got = generate.read_questions(tmp_path / "q.jsonl", None)
  assert [question.text for question in got] == [text] * 2


GOOD = {"question_id": 1, "text": "What?", "image": "a.jpg"}
BAD_ROWS = {
  "not json": ("{", "line 1: question: not JSON"),
  "a list": ("[]", "line 1: want a JSON object"),
  "no id": ({"text": "a"}, "question_id: want a text or a number, got None"),
  "no text": ({"question_id": 1}, "question 1: text: want a question"),
  "image": ({**GOOD, "image": 3}, "question 1: image: want a name or a list"),
  "outside": ({**GOOD, "image": "../x.png"}, "want a name inside"),
  "missing": ({**GOOD, "image": "z.png"}, "line 1: image 'z.png': no such"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_questions(case, world, tmp_path):
  row, message = BAD_ROWS[case]
  path = tmp_path / "q.jsonl"
  path.write_text(row if isinstance(row, str) else json.dumps(row))
  with pytest.raises(UserError, match=message):
    generate.read_questions(path, world / "photos")


BAD_FLAGS = {
  "no pictures": ({"images": "/nowhere/*.png"}, "no pictures found"),
  "no prompt": ({"prompt": " "}, "--prompt is empty"),
  "checkpoint": ({"checkpoint": "/nowhere"}, "no checkpoint at /nowhere"),
  "a folder": ({"out": ROOT / "tests"}, "cannot write .*: a folder has that"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags(case, world, tmp_path):
  flags, message = BAD_FLAGS[case]
  with pytest.raises(UserError, match=message):
    generate.main(_argv(world, **{"out": tmp_path / "out.jsonl", **flags}))


def test_a_broken_picture_is_named(world, tmp_path):
  (tmp_path / "x.png").write_bytes(small_world.png(0)[:-60])
  flags = {"images": tmp_path}
  with pytest.raises(UserError, match="question 'x.png': .*x.png: broken"):
    generate.main(_argv(world, tmp_path / "out.jsonl", **flags))


def _command(*argv: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", "povid_jax.generate", *argv],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def test_error_is_one_line_and_code_2(tmp_path):
  argv = ["--checkpoint=/nowhere", f"--images={tmp_path}", "--prompt=What?"]
  done = _command(*argv, f"--out={tmp_path}/o")
  assert done.returncode == 2
  assert done.stderr.startswith("error: --images=")
  assert len(done.stderr.splitlines()) == 1


def test_cut_weights_are_one_line_too(world, tmp_path):
  """Orbax reads all at once; what else was being read must not speak up."""
  model = tmp_path / "model"
  shutil.copytree(world / "model", model)
  files = [p for p in (model / "params").rglob("*") if p.is_file()]
  os.truncate(max(files, key=lambda p: p.stat().st_size), 100)
  done = _command(*_argv(world, tmp_path / "out", checkpoint=model))
  assert done.returncode == 2
  assert done.stderr.startswith(f"error: {model / 'params'} cannot be restored")
  assert len(done.stderr.splitlines()) == 1
  assert [p.name for p in tmp_path.iterdir()] == ["model"]
