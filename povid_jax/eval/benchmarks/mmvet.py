"""MM-Vet: 218 questions that take several abilities, graded by an LLM.

Yu et al., arXiv 2308.02490. The judge completes a table of question, truth,
answer and score with a number 0.0..1.0.

  score            100 * mean score; with --judge-runs=5 the mean of 5 gradings
  <ability>/score  the same over the questions that need it: rec, ocr, know,
                   gen, spat, math
  sets/<a+b>/score the same over the questions that need exactly these
  std              of the gradings' scores, with more than one

As in the original, the score is what stands before the first space of the reply
and must be a number 0..1 ("0.5." or " 1.0" is none). Else the judge is asked
again with one more line, at temperatures 0, 0.5, 1 and 1.5; after five replies
without a score it is 0. With --clean-rules the verdict is read (the number
0..1 that a reply begins with, else the last one after "score", else the last
one), and answers without a score are left out.

One thing differs: the original pays for a sixth reply that it never reads, and
takes "nan" for a score.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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

FILE = "mm-vet.json"
VERSION = "mmvet-1"
ABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
TEMPERATURES = (0.0, 0.0, 0.5, 1.0, 1.5)
MAX_TOKENS = 3
AGAIN = "\nScore of the last row (a number, nothing else): "


def questions(data: Path, options: Options) -> list[Question]:
  """The questions by their official ids, v1_0 and so on."""
  path = data / FILE
  entries = needs.read_json(path)
  if not isinstance(entries, dict):
    raise UserError(f"{path}: expected an object of questions by id")
  folder = needs.image_folder(data, options)
  asked = []
  for number, (name, entry) in enumerate(entries.items(), 1):
    image, text, answer, abilities = (
      needs.field(entry, key, path, number)
      for key in ("imagename", "question", "answer", "capability")
    )
    extra = {
      "image": image,
      "question": text,
      "answer": answer,
      "abilities": sorted(set(abilities)),
    }
    text += options.prompt or ""
    asked.append(Question(name, (in_folder(folder, image),), text, extra))
  return asked[: options.limit]


def reading(reply: str) -> float | None:
  """The original's reading: a number 0..1 before the first space, or None."""
  try:
    value = float(reply.split(" ")[0].strip())
  except ValueError:
    return None
  return value if math.isfinite(value) and 0 <= value <= 1 else None


_NUMBER = r"(?<![\d.\-])(?:0?\.\d+|[01](?:\.\d+)?)(?![\d.]*\d)"
_LABEL = r"\b(?:score|correctness|grade|grading|rating|verdict)\b[^\w\n]{0,8}"
_LEADS = re.compile(rf"\W*({_NUMBER})[ \t]*(?=$|[\n|.,;)*])")


def clean_reading(reply: str) -> float | None:
  """The verdict of a reply, a number 0..1: the one that it begins with, else
  the last one after a word like "score", else the last one; or None."""
  leads = _LEADS.match(reply)
  found = [leads[1]] if leads else []
  found = found or re.findall(rf"{_LABEL}({_NUMBER})", reply, re.I)
  found = found or re.findall(_NUMBER, reply)
  values = [float(number) for number in found if float(number) <= 1]
  return values[-1] if values else None


def score(
  data: Path, questions: Sequence[Question], answers: Answers, options: Options
) -> Scored:
  """Has every answer graded; a unit is a picture."""
  judge = judges.of(options)
  prompt = judges.load_prompt(judge, "mmvet", VERSION)
  pairs = list(zip(questions, answers, strict=True))
  tasks = [
    judges.Task(f"{q.question_id}/{run}", _messages(prompt, q, answer or ""))
    for run in range(judge.runs)
    for q, answer in pairs
  ]
  read = clean_reading if options.clean_rules else reading
  verdicts = judges.settle(
    judge, "mmvet", tasks, read, TEMPERATURES, MAX_TOKENS
  )
  scored, unread = Scored(), 0
  judges.record(scored, judge, prompt)
  scored.settings["judge_runs"] = judge.runs
  for question, _ in pairs:
    names = [f"{question.question_id}/{run}" for run in range(judge.runs)]
    values = [verdicts[name].value for name in names]
    unread += values.count(None)
    if options.clean_rules and None in values:
      continue
    _count(scored, question, [value or 0.0 for value in values])
  if unread:
    what = "left out" if options.clean_rules else "0"
    scored.notes.append(f"{unread} gradings gave no score: {what}")
  return scored


def _messages(prompt: judges.Prompt, question: Question, answer: str) -> Any:
  extra = question.extra
  truth = extra["answer"].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
  row = " | ".join([extra["question"], truth, answer, ""])
  content = f"{prompt.text}\n{row}"

  def messages(attempt: int) -> judges.Messages:
    more = AGAIN if attempt else ""
    return [{"role": "user", "content": content + more}]

  return messages


def _count(scored: Scored, question: Question, values: list[float]) -> None:
  abilities = question.extra["abilities"]
  mean = sum(values) / len(values)
  counts = {"n": 1.0, "score": mean}
  counts |= {f"run{i}/score": value for i, value in enumerate(values)}
  for name in [*abilities, f"sets/{'+'.join(abilities)}"]:
    counts |= {f"{name}/n": 1.0, f"{name}/score": mean}
  scored.count(question.extra["image"], counts)
  scored.verdicts.append(
    {
      "question_id": question.question_id,
      "unit": question.extra["image"],
      "abilities": abilities,
      "scores": values,
      "score": mean,
    }
  )


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text; an ability without questions has no metric."""
  yield "score", 100 * ratio(totals["score"], totals["n"])
  runs = [name for name in totals if re.fullmatch(r"run\d+/score", name)]
  if len(runs) > 1:
    each = [100 * ratio(totals[name], totals["n"]) for name in runs]
    yield "std", np.std(each, axis=0)
  sets = sorted(n for n in totals if re.fullmatch(r"sets/.*/n", n))
  for name in [*ABILITIES, *(n.removesuffix("/n") for n in sets)]:
    if f"{name}/n" in totals:
      value = ratio(totals[f"{name}/score"], totals[f"{name}/n"])
      yield f"{name}/score", 100 * value


def write(
  out: Path, data: Path, questions: Sequence[Question], answers: Answers
) -> None:
  """The file that the official online evaluator takes, mmvet.json."""
  pairs = zip(questions, answers, strict=True)
  given = {str(q.question_id): answer or "" for q, answer in pairs}
  with atomic_write(out / "mmvet.json") as file:
    json.dump(given, file, ensure_ascii=False, indent=1)


BENCHMARK = Benchmark(
  name="mmvet",
  title="MM-Vet",
  needs=(Need(FILE, "https://github.com/yuweihao/MM-Vet, mm-vet.zip"),),
  questions=questions,
  score=score,
  judged=True,
  metrics=metrics,
  columns=(
    Column("score", "", 1.0),
    *(Column(f"{name}/score", name, 1.0) for name in ABILITIES),
  ),
  write=write,
)
