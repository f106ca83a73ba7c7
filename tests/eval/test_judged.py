"""Benchmarks with a judge, by the book and over the loopback."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from povid_jax.errors import UserError
from povid_jax.eval import __main__ as command
from povid_jax.eval.benchmarks import llava_bench, mmvet
from povid_jax.eval.protocol import Options
from tests.eval.test_judge_readings import GRADES
from tests.eval.test_judged_mmhal import asked, put_mmhal

Put = Callable[[str, Any], Path]


ABILITIES = [["rec"], ["ocr", "math"], ["rec", "gen", "know"], ["spat"]]


def put_mmvet(put: Put, count: int) -> Path:
  entries = {
    f"v1_{i}": {
      "imagename": f"v1_{i // 2}.png",
      "question": f"Q{i}?",
      "answer": f"a{i}<AND>b<OR>c",
      "imagesource": "web",
      "capability": ABILITIES[i % 4],
    }
    for i in range(count)
  }
  put("data/mmvet/mm-vet.json", entries)
  return put("answers.json", {name: f"p{name}" for name in entries})


def mmvet_by_the_book(
  entries: dict[str, Any], calls: Callable[[str, int], str]
) -> dict[str, float]:
  """Scores as the official evaluator computes them for one run."""
  sums: dict[str, float] = {}
  sizes: dict[str, int] = {}
  for name, entry in entries.items():
    score = 0.0
    for attempt in range(5):
      piece = calls(name, attempt).split(" ")[0].strip()
      try:
        value = float(piece)
      except ValueError:
        continue
      if 0 <= value <= 1:
        score = value
        break
    groups = {*entry["capability"], "total"}
    groups.add("sets/" + "+".join(sorted(entry["capability"])))
    for group in groups:
      sums[group] = sums.get(group, 0.0) + score
      sizes[group] = sizes.get(group, 0) + 1
  book = {f"{g}/score": 100 * sums[g] / sizes[g] for g in sums}
  book["score"] = book.pop("total/score")
  return book


def test_mmvet_whole_file(server, evaluate, put: Put, tmp_path) -> None:
  rng = random.Random(1)
  words = [reply for reply, *_ in GRADES if reply and reply != "nan"]
  said = {f"v1_{i}": [rng.choice(words) for _ in range(5)] for i in range(60)}
  count: dict[str, int] = {}

  def say(body: dict[str, Any]) -> str:
    name = re.search(r"\| p(v1_\d+) \|", asked(body))[1]
    count[name] = count.get(name, 0) + 1
    return said[name][count[name] - 1]

  server.say = say
  rows, _ = evaluate("mmvet", put_mmvet(put, 60))
  entries = json.loads((tmp_path / "data/mmvet/mm-vet.json").read_text())
  book = mmvet_by_the_book(entries, lambda name, i: said[name][i])
  assert {n: r["value"] for n, r in rows.items()} == pytest.approx(book)
  assert rows["rec/score"]["n"] == 30
  assert rows["sets/math+ocr/score"]["n"] == 15
  first = next(b for b in server.bodies if "pv1_7 " in asked(b))
  assert asked(first).endswith("Q7? | a7 <AND> b <OR> c | pv1_7 | ")
  assert first["max_tokens"] == 3


def test_mmvet_escalates_the_temperature(server, evaluate, put: Put) -> None:
  server.say = lambda body: "unsure"
  rows, results = evaluate("mmvet", put_mmvet(put, 1))
  assert rows["score"]["value"] == 0
  sent = [body["temperature"] for body in server.bodies]
  assert sent == [0, 0, 0.5, 1.0, 1.5]
  assert [asked(b).endswith(mmvet.AGAIN) for b in server.bodies] == [
    False, True, True, True, True
  ]  # fmt: skip
  assert "1 gradings gave no score" in str(results["settings"]["notes"])
  with pytest.raises(UserError, match="nothing to score"):
    evaluate("mmvet", put_mmvet(put, 1), "--clean-rules")


def test_mmvet_several_gradings(server, evaluate, put: Put) -> None:
  said = iter(["0.2", "0.4", "0.6", "1.0", "0.0", "0.5"])
  server.say = lambda body: next(said)
  flags = ("--judge-runs=3", "--judge-concurrency=1")
  rows, _ = evaluate("mmvet", put_mmvet(put, 2), *flags)
  # run by run: (0.2, 0.4), (0.6, 1.0), (0.0, 0.5)
  runs = [30.0, 80.0, 25.0]
  assert rows["score"]["value"] == pytest.approx(np.mean(runs))
  assert rows["std"]["value"] == pytest.approx(np.std(runs))


CAPTIONS = {"001.jpg": "One.", "002.jpg": ["Two a.", "Two b."]}


def put_llava(put: Put, count: int = 12) -> Path:
  kinds = ("conv", "detail", "complex")
  questions = [
    {
      "question_id": i,
      "image": sorted(CAPTIONS)[i % 2],
      "text": f"Q{i}?",
      "category": kinds[i % 3],
    }
    for i in range(count)
  ]
  put("data/llava_bench/questions.jsonl", questions)
  put(
    "data/llava_bench/context.jsonl",
    [{"id": n, "image": n, "caption": c} for n, c in CAPTIONS.items()],
  )
  put(
    "data/llava_bench/answers_gpt4.jsonl",
    [{"question_id": i, "text": f"gold {i}"} for i in range(count)],
  )
  rows = [{"question_id": i, "text": f"mine <{i}>"} for i in range(count)]
  return put("answers.jsonl", rows)


def llava_by_the_book(replies: list[str]) -> dict[str, float]:
  """Scores as LLaVA's review and summary scripts compute them."""
  tuples: dict[str, list[list[float]]] = {}
  for i, reply in enumerate(replies):
    line = reply.partition("\n")[0]
    pieces = re.split(" ", re.sub(",", " ", line))
    try:
      found = [float(piece) for piece in pieces]
    except ValueError:
      found = []
    if len(found) != 2 or any(np.isnan(found)):
      found = [-1, -1]
    for group in ("all", ("conv", "detail", "complex")[i % 3]):
      tuples.setdefault(group, []).append(found)
  book = {}
  for group, rows in tuples.items():
    first, second = (round(x, 3) for x in np.mean(rows, axis=0).tolist())
    head = "" if group == "all" else f"{group}/"
    book[f"{head}score"] = second / first * 100
    book[f"{head}reference"], book[f"{head}candidate"] = first, second
  return book


def test_llava_bench_whole_file(server, evaluate, put: Put) -> None:
  rng = random.Random(3)
  # hundredths, so that rounding the means to three decimals is seen
  good = [f"{a} {b}" for a in (7, 8.51, 9) for b in (3, 6.33, 9)]
  replies = [rng.choice(good) for _ in range(57)] + ["8, 7", "nan 7", "none"]

  def say(body: dict[str, Any]) -> str:
    return replies[int(re.search(r"mine <(\d+)>", asked(body))[1])]

  server.say = say
  rows, results = evaluate("llava_bench", put_llava(put, 60))
  book = llava_by_the_book(replies)
  assert {n: r["value"] for n, r in rows.items()} == pytest.approx(book)
  assert rows["score"]["n"] == 60
  assert rows["conv/score"]["n"] == 20
  assert "3 replies do not contain two ratings" in str(
    results["settings"]["notes"]
  )
  body = next(b for b in server.bodies if "mine <1>" in asked(b))
  assert body["temperature"] == 0.2
  assert [m["role"] for m in body["messages"]] == ["system", "user"]
  assert asked(body).startswith(
    "[Context]\nTwo a.\nTwo b.\n\n[Question]\nQ1?\n\n[Assistant 1]\ngold 1\n\n"
    "[End of Assistant 1]\n\n[Assistant 2]\nmine <1>\n\n"
    "[End of Assistant 2]\n\n[System]\n"
  )


def test_llava_bench_takes_rule_json(server, evaluate, put: Put) -> None:
  server.say = lambda body: "8 4"
  rule = {
    f"llava_bench_{c}": {"role": "Helper", "prompt": f"Judge {c}!"}
    for c in ("conv", "detail", "complex")
  }
  path = put("rule.json", rule)
  rows, _ = evaluate(
    "llava_bench", put_llava(put), f"--judge-prompt=llava_bench={path}"
  )
  assert rows["score"]["value"] == 50
  text = next(t for t in map(asked, server.bodies) if "mine <2>" in t)
  assert "[Helper 1]\ngold 2" in text
  assert text.endswith("[System]\nJudge complex!\n\n")
  bad = put("rule.json", {"conv": rule["llava_bench_conv"]})
  with pytest.raises(UserError, match="rule.json with prompt and role"):
    evaluate("llava_bench", put_llava(put), f"--judge-prompt={bad}")


def test_llava_bench_files_that_do_not_fit(put: Put, tmp_path: Path) -> None:
  put_llava(put, 3)
  data = tmp_path / "data/llava_bench"
  put("data/llava_bench/context.jsonl", [{"image": "x", "caption": "y"}])
  with pytest.raises(UserError, match="no 001.jpg in context"):
    llava_bench.questions(data, Options())
  put_llava(put, 3)
  put("data/llava_bench/answers_gpt4.jsonl", [{"question_id": 9, "text": ""}])
  with pytest.raises(UserError, match="not in answers_gpt4"):
    llava_bench.questions(data, Options())


def test_interrupted_judging_continues(server, evaluate, put: Put) -> None:
  answers = put_llava(put)
  fail = lambda body: 400 if "mine <5>" in asked(body) else "8 6"
  server.say = fail
  with pytest.raises(UserError, match="1 of 12 judgements are missing"):
    evaluate("llava_bench", answers)
  server.say = lambda body: "8 6"
  rows, _ = evaluate("llava_bench", answers)
  assert rows["score"]["value"] == 75
  assert len(server.bodies) == 13


def test_other_judges_are_not_compared(
  server, evaluate, put: Put, tmp_path: Path
) -> None:
  server.say = lambda body: "8 6"
  answers = put_llava(put)
  evaluate("llava_bench", answers)
  (tmp_path / "out").rename(tmp_path / "a")
  evaluate("llava_bench", answers, "--judge-model=another")
  with pytest.raises(UserError, match="judge_model: a-judge and another"):
    command.main(["compare", f"{tmp_path}/a", f"{tmp_path}/out"])


def test_dry_run_of_everything(
  server, put: Put, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  put_mmhal(put), put_mmvet(put, 5), put_llava(put)
  command.main(
    [
      "--benchmarks=mmhal,mmvet,llava_bench",
      f"--data={tmp_path}/data",
      f"--out={tmp_path}/out",
      "--checkpoint=not-needed",
      "--judge-model=gpt-4o",
      f"--judge-base-url={server.url}",
      "--dry-run",
    ]
  )
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(" judgements")[0] for line in lines] == [
    "mmhal: 96", "mmvet: 5", "llava_bench: 12"
  ]  # fmt: skip
  assert all("$" in line for line in lines)
  assert not server.bodies
