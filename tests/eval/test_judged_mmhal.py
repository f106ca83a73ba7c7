"""MMHal by the book, over a judge on the loopback."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from povid_jax.errors import UserError
from povid_jax.eval.benchmarks import mmhal
from povid_jax.eval.protocol import Options
from tests.eval.test_judge_readings import RATINGS

Put = Callable[[str, Any], Path]


def asked(body: dict[str, Any]) -> str:
  return body["messages"][-1]["content"]


def put_mmhal(put: Put, count: int = 96) -> Path:
  records = [
    {
      "question_type": "?",
      "question_topic": "t",
      "image_id": f"id{i}",
      "image_src": f"https://host/x/{i}.jpg",
      "image_content": ["Cat", f"Thing{i}"],
      "question": f"What is {i}?",
      "gt_answer": f"It is {{{i}}}.",
      "model_answer": f"answer <{i}>",
    }
    for i in range(count)
  ]
  put("data/mmhal/response_template.json", records)
  return put("answers.json", records)


def mmhal_by_the_book(replies: list[str]) -> dict[str, float]:
  """Scores as LLaVA-RLHF's summary computes them, in words of our own."""
  scores = []
  for reply in replies:
    hits = set(re.findall(r"(?=rating: ([0-6]))", reply.lower()))
    scores.append(int(hits.pop()) if len(hits) == 1 else 0)
  book = {
    "score": sum(scores) / 96,
    "hallucination_rate": len([s for s in scores if s < 3]) / 96,
  }
  for i, kind in enumerate(mmhal.TYPES):
    book[f"{kind}/score"] = sum(scores[i::8]) / 12
  return book


def test_mmhal_whole_file(server, evaluate, put: Put) -> None:
  rng = random.Random(0)
  said = [reply for reply, *_ in RATINGS if reply]  # an empty one is none
  replies = [rng.choice(said) for _ in range(96)]

  def say(body: dict[str, Any]) -> str:
    return replies[int(re.search(r"answer <(\d+)>", asked(body))[1])]

  server.say = say
  rows, results = evaluate("mmhal", put_mmhal(put))
  for name, value in mmhal_by_the_book(replies).items():
    assert rows[name]["value"] == pytest.approx(value, abs=1e-12), name
    assert rows[name]["n"] == (12 if "/" in name else 96)
  text = next(asked(b) for b in server.bodies if "<17>" in asked(b))
  for piece in ("Cat, Thing17", "What is 17?", "It is {17}.", "Rating: 6"):
    assert piece in text
  body = server.bodies[0]
  assert (body["temperature"], body["model"]) == (0.0, "a-judge")
  made = results["settings"]["measured_by"]["mmhal"]
  assert made["judge_model"] == "a-judge"
  assert made["judge_prompt"] == mmhal.VERSION
  assert len(made["judge_prompt_hash"]) == 12


def test_mmhal_leaves_the_original_response_file(
  server, evaluate, put: Put, tmp_path: Path
) -> None:
  server.say = lambda body: "Rating: 4"
  answers = put_mmhal(put)
  evaluate("mmhal", answers)
  left = json.loads((tmp_path / "out/mmhal_responses.json").read_text())
  assert left == json.loads(answers.read_text())


def test_mmhal_clean_rules_leave_out_the_unreadable(
  server, evaluate, put: Put
) -> None:
  server.say = lambda body: (
    "Rating: 3.5" if "<0>" in asked(body) else "**Rating**: 5"
  )
  rows, results = evaluate("mmhal", put_mmhal(put), "--clean-rules")
  assert rows["score"]["value"] == 5
  assert rows["score"]["n"] == 95
  assert "left out" in str(results["settings"]["notes"]["mmhal"])


def test_mmhal_wants_96(put: Put, tmp_path: Path) -> None:
  put_mmhal(put, 95)
  with pytest.raises(UserError, match="95 questions, want 96"):
    mmhal.questions(tmp_path / "data/mmhal", Options())
  few = mmhal.questions(tmp_path / "data/mmhal", Options(limit=9))
  assert [q.extra["type"] for q in few][7:] == ["other", "attribute"]


def test_mmhal_finds_pictures_by_address_or_id(
  put: Put, tmp_path: Path
) -> None:
  put_mmhal(put)
  put("data/mmhal/images/id1.jpg", b"")
  put("data/mmhal/images/2.jpg", b"")
  asked = mmhal.questions(tmp_path / "data/mmhal", Options())
  names = [question.images[0].name for question in asked[:3]]
  assert names == ["0.jpg", "id1.jpg", "2.jpg"]


def test_mmhal_takes_the_original_template(server, evaluate, put: Put) -> None:
  answers = put_mmhal(put)
  template = put("original.txt", "Of {} on {} with {} judge {} {x}.")
  server.say = lambda body: "Rating: 4"
  _, results = evaluate("mmhal", answers, f"--judge-prompt={template}")
  assert (
    "Of Cat, Thing3 on What is 3? with It is {3}. judge answer <3> {x}."
  ) in [asked(body) for body in server.bodies]
  made = results["settings"]["measured_by"]["mmhal"]
  assert made["judge_prompt"] == "file original.txt"
