"""Object HalBench: rates by hand, both extractors, pictures inside the file."""

import base64
import dataclasses
import json
import sys
from pathlib import Path

import pytest

from povid_jax import llm
from povid_jax.errors import UserError
from povid_jax.eval import judge as judges
from povid_jax.eval.benchmarks import object_halbench
from povid_jax.eval.benchmarks.object_halbench import BENCHMARK
from povid_jax.eval.protocol import Options

sys.path.insert(0, str(Path(__file__).parents[1]))
from judge_server import JudgeServer  # noqa: E402

CATEGORIES = ["dog", "cat", "car", "traffic light"]
TRUTH = {11: ["dog", "dog", "cat"], 12: ["car"], 13: []}
PICTURE = base64.b64encode(b"\xff\xd8 not looked into" * 20).decode()


def _write(put, **fields):
  images = [{"id": i, "file_name": f"{i}.jpg"} for i in TRUTH]
  put(
    "object_halbench/instances_val2014.json",
    {
      "images": images,
      "categories": [{"id": k, "name": n} for k, n in enumerate(CATEGORIES)],
      "annotations": [
        {"image_id": i, "category_id": CATEGORIES.index(name)}
        for i, names in TRUTH.items()
        for name in names
      ],
    },
  )
  caption = {"image_id": 13, "caption": "Two traffic lights."}
  put(
    "object_halbench/captions_val2014.json",
    {"images": images, "annotations": [caption]},
  )
  rows = [
    {"image_id": i, "question": f"<image>\nDescribe {i}.", **fields}
    for i in TRUTH
  ]
  return put("object_halbench/obj_halbench_300.jsonl", rows).parent


ANSWERS = [
  "A dog, a kitten, a car and a car.",  # 2 of 4 mentions invented
  "Nothing that has a name here.",  # no object: out of the response rate
  "A traffic light over a pizza.",  # pizza is no category of these annotations
]


def _rows(texts=ANSWERS):
  return [{"question_id": i, "text": text} for i, text in enumerate(texts)]


def test_rates_by_hand(put, run):
  data = _write(put)
  found = run(BENCHMARK, data, _rows(), limit=3)
  assert found == {
    "response": 1 / 2,
    "mention": 2 / 5,
    "recall": 3 / 4,
    "objects": 5 / 3,
    "length": 7,
  }


def _judge(url: str, tmp_path: Path) -> judges.Judge:
  server = llm.Options(model="m", base_url=url, retries=0)
  return judges.Judge(server=server, log=tmp_path / "judge.jsonl")


def test_a_judge_lists_the_objects(put, tmp_path):
  """Each word counts once; short answers are not judged; the log is read."""
  data = _write(put)
  said = {
    "11": 'Here: ["A dog", "kittens", "car", "cars", "red vehicle"]',
    "13": "[]",
  }
  seen = []

  def say(body):
    (message,) = body["messages"]
    key = next(k for k in said if f"Describe {k}." in message["content"])
    seen.append(key)
    return said[key]

  texts = [ANSWERS[0], "A dog, really.", ANSWERS[2]]
  with JudgeServer(say) as server:
    judge = _judge(server.url, tmp_path)
    options = Options(limit=3, extra={"judge": judge})
    questions = BENCHMARK.questions(data, options)
    for _ in range(2):
      scored = BENCHMARK.score(data, questions, texts, options)
  assert sorted(seen) == ["11", "13"]
  by_picture = {row["unit"]: row for row in scored.verdicts}
  # "cars" is the word "car" again, "vehicle" another one
  assert by_picture["11"]["named"][:3] == ["dog", "cat", "car"]
  assert set(by_picture["11"]["hallucinated"]) == {"car"}
  assert by_picture["12"]["named"] == by_picture["13"]["named"] == []
  assert scored.settings["extractor"].startswith("judge m, prompt object_halb")


def test_a_judge_that_lists_nothing_readable(put, tmp_path):
  data = _write(put)
  with JudgeServer(lambda _: "no list") as server:
    judge = _judge(server.url, tmp_path)
    options = Options(limit=3, extra={"judge": judge})
    questions = BENCHMARK.questions(data, options)
    with pytest.raises(
      UserError, match="3 replies of the judge contain no JSON"
    ):
      BENCHMARK.score(data, questions, ANSWERS, options)


@pytest.mark.parametrize(
  ("reply", "want"),
  [
    ('["dog", "cat"]', ["dog", "cat"]),
    ('Objects: ["a"] and so ["b"].', ["b"]),
    ('```json\n["dog"]\n```', ["dog"]),
    ("[]", []),
    ("[1, 2]", None),
    ('["dog"', None),
    ("dog, cat", None),
    ("", None),
  ],
)
def test_reading_a_list(reply, want):
  assert object_halbench.read_list(reply) == want


def test_pictures_inside_the_file(put, tmp_path):
  data = _write(put, image=PICTURE)
  options = Options(limit=2, out=tmp_path / "out")
  questions = BENCHMARK.questions(data, options)
  assert questions[0].text == "Describe 11."
  BENCHMARK.prepare(tmp_path, questions, options)
  for question in questions:
    assert question.images[0].read_bytes() == base64.b64decode(PICTURE)
  outside = BENCHMARK.questions(_write(put), Options(limit=1))
  assert outside[0].images[0].name == "11.jpg"
  broken = [dataclasses.replace(questions[0], images=(tmp_path / "new.jpg",))]
  broken[0].extra["picture"] = PICTURE + "!"
  with pytest.raises(UserError, match="question 0: its image is not base64"):
    BENCHMARK.prepare(tmp_path, broken, options)


def test_another_file_than_the_official_one(put):
  data = _write(put)
  with pytest.raises(UserError, match="3 questions, want 300"):
    BENCHMARK.questions(data, Options())
  path = data / "obj_halbench_300.jsonl"
  path.write_text(json.dumps({"image_id": 99, "question": "What?"}) + "\n")
  with pytest.raises(UserError, match="image 99 is not in the instances"):
    BENCHMARK.questions(data, Options(limit=1))
