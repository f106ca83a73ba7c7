"""MMHal-Bench: 96 open questions, judged for hallucination by a language model.

Sun et al., arXiv 2309.14525. The judge reads the picture's objects, a person's
answer and the response, explains itself, and rates 0..6; below 3 is a
hallucination.

  score                mean rating, 0..6
  hallucination_rate   responses rated below 3 / responses
  <type>/score         mean rating of one of eight types of question
  <type>/hallucination_rate

As in the original, the type of a question is its place in the file modulo 8,
and a reply counts only if exactly one of "rating: 0" ... "rating: 6" is in it,
in any case: **every other reply is a 0**, so a hallucination. "Rating: 3.5" is
a 3, "Rating: 10" a 1, "**Rating**: 5" a 0. With --clean-rules the last
"rating", a number 0..6 after it, whatever stands between them, is taken, and
replies without one are left out.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from povid_jax.data.picture import in_folder
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import judge as judges
from povid_jax.eval import needs
from povid_jax.eval.protocol import (
  Answers,
  Benchmark,
  Column,
  Metrics,
  Need,
  Options,
  Scored,
  Totals,
  ratio,
)
from povid_jax.files import atomic_write

COUNT = 96
TYPES = (
  "attribute",
  "adversarial",
  "comparison",
  "counting",
  "relation",
  "environment",
  "holistic",
  "other",
)
FILE = "response_template.json"
VERSION = "mmhal-1"
MAX_TOKENS = 1024


def questions(data: Path, options: Options) -> list[Question]:
  """The 96 questions; ids count from 0. --prompt is put after each."""
  path = data / FILE
  records = _records(path)
  if len(records) != COUNT and options.limit is None:
    raise UserError(
      f"{path}: {len(records)} questions, want {COUNT} (--limit=N for a part)"
    )
  folder = needs.image_folder(data, options)
  return [
    Question(
      i,
      (_picture(folder, record),),
      record["question"] + (options.prompt or ""),
      {
        "type": TYPES[i % len(TYPES)],
        "question": record["question"],
        "contents": ", ".join(record["image_content"]),
        "reference": record["gt_answer"],
      },
    )
    for i, record in enumerate(records[: options.limit])
  ]


def _records(path: Path) -> list[dict[str, Any]]:
  records = needs.read_json(path)
  if not isinstance(records, list):
    raise UserError(
      f"{path}: want a list of questions, as in the published "
      "response_template.json"
    )
  for number, record in enumerate(records, 1):
    for name in ("question", "gt_answer", "image_content"):
      needs.field(record, name, path, number)
  return records


def _picture(folder: Path, record: dict[str, Any]) -> Path:
  """Copies of the data name pictures by their address or by their id."""
  source = str(record.get("image_src", "")).rpartition("/")[2]
  number = str(record.get("image_id", ""))
  names = [source, f"{number}.jpg", f"{number}.png"]
  paths = [in_folder(folder, name) for name in names if name]
  return next((path for path in paths if path.is_file()), paths[0])


def read(path: Path) -> list[dict[str, Any]] | None:
  """Answers in the original's form: the records with `model_answer`."""
  if path.suffix != ".json" or not path.is_file():
    return None
  rows = needs.read_json(path)
  if not isinstance(rows, list) or not rows:
    return None
  if not all(isinstance(row, dict) and "model_answer" in row for row in rows):
    return None
  return [
    {"question_id": i, "text": row["model_answer"]}
    for i, row in enumerate(rows)
  ]


def rating(reply: str) -> int:
  """The original's reading: one rating, or 0."""
  reply = reply.lower()
  found = [n for n in range(7) if f"rating: {n}" in reply]
  return found[0] if len(found) == 1 else 0


def clean_rating(reply: str) -> int | None:
  """The last rating, or None."""
  found = re.findall(r"rating[^\w\d]{0,8}([0-6])(?![\d.]*\d)", reply.lower())
  return int(found[-1]) if found else None


def score(
  data: Path, questions: Sequence[Question], answers: Answers, options: Options
) -> Scored:
  """Has every response judged; a unit is a question (each has its picture)."""
  judge = judges.of(options)
  prompt = judges.load_prompt(judge, "mmhal", VERSION)
  tasks = [
    judges.Task(str(q.question_id), _messages(prompt, q, answer or ""))
    for q, answer in zip(questions, answers, strict=True)
  ]
  # the text is the value: an unreadable reply is a rating too
  verdicts = judges.settle(
    judge, "mmhal", tasks, lambda text: text, (0.0,), MAX_TOKENS
  )
  scored, unread = Scored(), 0
  judges.record(scored, judge, prompt)
  for question, task in zip(questions, tasks, strict=True):
    reply = verdicts[task.key].text
    value = clean_rating(reply)
    unread += value is None
    if not options.clean_rules:
      value = rating(reply)
    if value is not None:
      _count(scored, question, value, reply)
  if unread:
    what = "left out" if options.clean_rules else "mostly rated 0"
    scored.notes.append(
      f"{unread} replies do not contain a clear rating: {what}"
    )
  return scored


def _messages(prompt: judges.Prompt, question: Question, answer: str) -> Any:
  extra = question.extra
  content = judges.fill(
    prompt,
    {
      "contents": extra["contents"],
      "question": extra["question"],
      "reference": extra["reference"],
      "answer": answer,
    },
  )
  return lambda attempt: [{"role": "user", "content": content}]


def _count(scored: Scored, question: Question, value: int, reply: str) -> None:
  kind, wrong = question.extra["type"], value < 3
  scored.count(
    question.question_id,
    {
      "n": 1,
      "score": value,
      "wrong": wrong,
      f"{kind}/n": 1,
      f"{kind}/score": value,
      f"{kind}/wrong": wrong,
    },
  )
  scored.verdicts.append(
    {
      "question_id": question.question_id,
      "unit": str(question.question_id),
      "type": kind,
      "rating": value,
      "correct": not wrong,
      "judge": reply,
    }
  )


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text; a type without questions has no metrics."""
  yield "score", ratio(totals["score"], totals["n"])
  yield "hallucination_rate", ratio(totals["wrong"], totals["n"])
  for kind in TYPES:
    if f"{kind}/n" in totals:
      n = totals[f"{kind}/n"]
      yield f"{kind}/score", ratio(totals[f"{kind}/score"], n)
      yield f"{kind}/hallucination_rate", ratio(totals[f"{kind}/wrong"], n)


def write(
  out: Path, data: Path, questions: Sequence[Question], answers: Answers
) -> None:
  """The original's response file, mmhal_responses.json."""
  records = _records(data / FILE)
  pairs = zip(questions, answers, strict=True)
  rows = [
    records[int(question.question_id)] | {"model_answer": answer or ""}
    for question, answer in pairs
  ]
  with atomic_write(out / "mmhal_responses.json") as file:
    json.dump(rows, file, ensure_ascii=False, indent=1)


BENCHMARK = Benchmark(
  name="mmhal",
  title="MMHal-Bench",
  needs=(
    Need(FILE, "https://huggingface.co/datasets/Shengcao1006/MMHal-Bench"),
  ),
  questions=questions,
  score=score,
  judged=True,
  metrics=metrics,
  columns=(
    Column("score", "score", 1.0),
    Column("hallucination_rate", "Hal"),
  ),
  read=read,
  write=write,
)
