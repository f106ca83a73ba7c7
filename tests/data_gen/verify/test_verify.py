"""Each verifier on a small world, and agreement of several."""

import argparse
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from data_gen import verify
from data_gen.verify.base import Agreement, Asked, Setting
from povid_jax.data.picture import Picture
from povid_jax.errors import UserError
from povid_jax.eval.benchmarks import chair_words
from tests.eval.judge_server import JudgeServer

WORDS = ("dog", "cat", "car", "bus")


def _verifier(tmp_path: Path, name: str, *flags: str, annotations=()):
  parser = argparse.ArgumentParser()
  verify.add_flags(parser)
  args = parser.parse_args([f"--verify={name}", *flags])
  args.annotations = list(annotations)
  vocabulary = chair_words.load(clean=True)
  return verify.build(Setting(args, vocabulary, tmp_path / "out"))


def _ask(verifier, image="a.jpg", objects=WORDS):
  (found,) = verifier.present([Asked(Picture(image, "/p"), objects)])
  return found


def _coco(path: Path, kind: str) -> Path:
  rows = {
    "instances": [{"image_id": 1, "category_id": 5}],
    "captions": [{"image_id": 1, "caption": "A puppy beside a bicycle."}],
  }
  categories = [
    {"id": i, "name": n, "supercategory": "x"}
    for i, n in enumerate(("dog", "car", "bicycle", "bus", "zebra", "cat"))
  ]
  document = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "annotations": rows[kind],
  }
  if kind == "instances":
    document["categories"] = categories
  path.write_text(json.dumps(document))
  return path


def test_annotations_by_chairs_rule(tmp_path):
  """Instances, and words of the captions by their synonyms."""
  files = [
    _coco(tmp_path / f"{kind}.json", kind) for kind in ("instances", "captions")
  ]
  found = _verifier(tmp_path, "annotations", annotations=files)
  assert _ask(found, objects=("cat", "dog", "bicycle", "car", "pizza")) == {
    "cat": True,
    "dog": True,
    "bicycle": True,
    "car": False,
    "pizza": None,  # no category of these annotations
  }
  assert _ask(found, image="other.jpg") == dict.fromkeys(WORDS)
  with pytest.raises(UserError, match="needs --annotations"):
    _verifier(tmp_path, "annotations")


BOXES = [
  {"label": "puppy", "score": 0.4, "box": [0, 0, 1, 1]},
  {"label": "dog", "score": 0.8},
  {"label": "cat", "score": 0.3},
  {"label": "car", "score": 0.1},
]


@pytest.mark.parametrize("lines", [False, True])
def test_detections(tmp_path, lines):
  file = tmp_path / "boxes.json"
  if lines:
    row = {"image": "a.jpg", "detections": BOXES}
    file.write_text(json.dumps(row) + "\n")
  else:
    file.write_text(json.dumps({"a.jpg": BOXES}))
  found = _verifier(tmp_path, "detections", f"--detections={file}")
  want = {"dog": True, "cat": None, "car": False, "bus": False}
  assert _ask(found) == want
  assert _ask(found, image="b.jpg") == dict.fromkeys(WORDS)
  loose = ("--detected=0.3", "--undetected=0.05")
  found = _verifier(tmp_path, "detections", f"--detections={file}", *loose)
  assert _ask(found) == want | {"cat": True, "car": None}


def test_a_detector_knows_nothing_of_what_it_was_not_asked_for(tmp_path):
  file = tmp_path / "boxes.json"
  row = {"detections": BOXES, "queries": ["dogs", "car"]}
  file.write_text(json.dumps({"a.jpg": row}))
  found = _verifier(tmp_path, "detections", f"--detections={file}")
  assert _ask(found) == {"dog": True, "cat": None, "car": False, "bus": None}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("[1]", "line 1: want a JSON object"),
    ('{"a.jpg": 3}', "image 'a.jpg': want {detections"),
    ('{"a.jpg": [{"label": "dog"}]}', "want a label and a score"),
    ('{"a.jpg": {"detections": [], "queries": "dog"}}', "want a list of words"),
  ],
)
def test_detections_of_another_form(tmp_path, text, message):
  file = tmp_path / "boxes.json"
  file.write_text(text)
  with pytest.raises(UserError, match=message):
    _verifier(tmp_path, "detections", f"--detections={file}")


PROGRAM = """
import json, sys
open({log!r}, "a").write("run\\n")
for line in reversed(list(sys.stdin)):
  row = json.loads(line)
  lists = {{"present": row["objects"][:1], "absent": row["objects"][1:3]}}
  print(json.dumps({{"image": row["image"], **lists}}))
"""


def test_command_is_called_once_for_what_is_new(tmp_path):
  log, program = tmp_path / "log", tmp_path / "detector.py"
  program.write_text(PROGRAM.format(log=str(log)))
  command = f"{sys.executable} {program}"
  found = _verifier(tmp_path, "command", f"--verify-command={command}")
  asked = [Asked(Picture(f"{i}.jpg", "/"), WORDS) for i in range(3)]
  want = {"dog": True, "cat": False, "car": False, "bus": None}
  assert found.present(asked) == [want] * 3
  assert found.present(asked[1:]) == [want] * 2
  assert log.read_text() == "run\n"
  more = found.present([Asked(Picture("0.jpg", "/"), ("bus", "cup"))])
  assert more == [{"bus": None, "cup": True}]
  assert log.read_text() == "run\n" * 2


@pytest.mark.parametrize(
  ("code", "message"),
  [
    ("import sys; sys.exit(3)", "ended with code 3"),
    ("print('hello')", "printed 'hello'; want JSON lines"),
    ("pass", "printed nothing about /p/a.jpg"),
  ],
)
def test_commands_that_do_not_answer(tmp_path, code, message):
  program = tmp_path / "bad.py"
  program.write_text(code)
  command = f"{sys.executable} {program}"
  found = _verifier(tmp_path, "command", f"--verify-command={command}")
  with pytest.raises(UserError, match=message):
    _ask(found)
  found = _verifier(tmp_path, "command", "--verify-command=/no/such/program")
  with pytest.raises(UserError, match="cannot be run"):
    _ask(found)


def _picture(folder: Path) -> Picture:
  Image.new("RGB", (8, 8)).save(folder / "a.png")
  return Picture("a.png", str(folder))


def test_a_language_model_looks_at_the_picture(tmp_path):
  """One request a picture; what was said is read from the log again."""
  said = {"present": ["Dog"], "absent": ["cat", "car"], "uncertain": ["car"]}
  asked = [Asked(_picture(tmp_path), WORDS)]
  want = {"dog": True, "cat": False, "car": None, "bus": None}
  with JudgeServer(lambda _: json.dumps(said)) as server:
    flags = ("--judge-model=m", f"--judge-base-url={server.url}")
    for _ in range(2):
      found = _verifier(tmp_path, "llm", *flags)
      assert found.present(asked) == [want]
      assert found.present(asked) == [want]
    (body,) = server.bodies
  picture, text = body["messages"][0]["content"]
  assert picture["image_url"]["url"].startswith("data:image/png")
  assert "dog, cat, car, bus" in text["text"]
  with pytest.raises(UserError, match="needs --judge-model"):
    _verifier(tmp_path, "llm")


def test_a_reply_that_cannot_be_read_leaves_all_uncertain(tmp_path):
  asked = [Asked(_picture(tmp_path), WORDS)]
  with JudgeServer(lambda _: "I see a dog.") as server:
    flags = ("--judge-model=m", f"--judge-base-url={server.url}")
    found = _verifier(tmp_path, "llm", *flags).present(asked)
  assert found == [dict.fromkeys(WORDS)]


class _Says:
  def __init__(self, **known):
    self.known = known

  def present(self, asked):
    return [{o: self.known.get(o) for o in a.objects} for a in asked]


def test_agreement():
  first = _Says(dog=True, cat=True, car=False, bus=False)
  second = _Says(dog=True, cat=False, car=False)
  both, either = Agreement([first, second], 2), Agreement([first, second], 1)
  assert _ask(both) == {"dog": True, "cat": None, "car": False, "bus": None}
  assert _ask(either) == {"dog": True, "cat": None, "car": False, "bus": False}
  with pytest.raises(UserError, match="--agree=3: want 1 to 2"):
    Agreement([first, second], 3)
  with pytest.raises(UserError, match="no 'oracle'; there are annotations"):
    _verifier(Path("/tmp"), "oracle")
