"""ScienceQA-IMG: multiple-choice questions of school science, with a picture.

Lu et al., arXiv 2209.09513. Files as LLaVA's evaluation has them:
problems.json, pid_splits.json (split `test`) and llava_test_CQM-A.json.

  img_accuracy   over questions with a picture: the number of the tables
  accuracy       over all questions

An answer is read as LLaVA's eval_science_qa.py does: exactly one letter A-E; or
a letter A-E followed by ". "; or exactly one "The answer is X." in the text;
else it failed and is wrong, as is a letter beyond the question's choices. A
question without an answer counts as wrong in `accuracy` and is left out of
`img_accuracy`, as in the original, which no longer knows that it has a picture.
With --clean-rules it counts in both, and the letter may be lower case and stand
in brackets or before any punctuation.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from povid_jax.data.picture import in_folder
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import needs
from povid_jax.eval.benchmarks.prompts import CHOICE
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

LETTERS = "ABCDE"
_SOURCE = "https://github.com/lupantech/ScienceQA, data/scienceqa"


def questions(data: Path, options: Options) -> list[Question]:
  """The test split's questions in LLaVA's wording, the picture first."""
  problems = needs.read_json(data / "problems.json")
  splits = needs.read_json(data / "pid_splits.json")
  split = options.split or "test"
  if split not in splits:
    raise UserError(
      f"{data / 'pid_splits.json'}: no split {split!r}; {', '.join(splits)}"
    )
  asked = {
    str(row["id"]): row
    for row in needs.read_json(data / "llava_test_CQM-A.json")
  }
  folder = needs.image_folder(data, options)
  found = []
  for pid in map(str, splits[split]):
    if pid not in asked or pid not in problems:
      where = "problems" if pid in asked else "llava_test_CQM-A"
      raise UserError(f"{data / where}.json: no question {pid} of {split!r}")
    row, problem = asked[pid], problems[pid]
    text = row["conversations"][0]["value"].replace("<image>", "").strip()
    suffix = CHOICE if options.prompt is None else options.prompt
    images = (in_folder(folder, row["image"]),) if row.get("image") else ()
    found.append(
      Question(
        pid,
        images,
        text + suffix,
        {"label": int(problem["answer"]), "choices": len(problem["choices"])},
      )
    )
  return found if options.limit is None else found[: options.limit]


def letter(answer: str) -> str | None:
  """The original's reading of an answer: a letter, or None (failed)."""
  if answer in tuple(LETTERS):
    return answer
  if len(answer) >= 3 and answer[0] in LETTERS and answer[1:3] == ". ":
    return answer[0]
  found = re.findall(r"The answer is ([A-Z]).", answer)
  return found[0] if len(found) == 1 else None


def clean_letter(answer: str) -> str | None:
  """A letter alone, in brackets or before punctuation, in any case."""
  match = re.match(r"\W*([A-Ea-e])(?:[\W_]|$)", answer)
  match = match or re.search(r"(?i)answer is\W*([A-E])\b", answer)
  return match.group(1).upper() if match else None


def score(
  data: Path, questions: Sequence[Question], answers: Answers, options: Options
) -> Scored:
  """Judges letters; a unit is a question."""
  scored = Scored()
  read = clean_letter if options.clean_rules else letter
  for question, answer in zip(questions, answers, strict=True):
    extra = question.extra
    said = read(answer) if answer is not None else None
    index = LETTERS.find(said) if said is not None else -1
    correct = index < extra["choices"] and index == extra["label"]
    with_picture = bool(question.images) and (
      answer is not None or options.clean_rules
    )
    counts = {"n": 1, "right": correct}
    if with_picture:
      counts |= {"img_accuracy/n": 1, "img/right": correct}
    scored.count(question.question_id, counts)
    scored.verdicts.append(
      {
        "question_id": question.question_id,
        "unit": str(question.question_id),
        "label": LETTERS[extra["label"]],
        "said": said,
        "picture": bool(question.images),
        "correct": correct,
      }
    )
  return scored


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text."""
  if "img_accuracy/n" in totals:
    yield "img_accuracy", ratio(totals["img/right"], totals["img_accuracy/n"])
  yield "accuracy", ratio(totals["right"], totals["n"])


BENCHMARK = Benchmark(
  name="scienceqa",
  title="SQA",
  needs=(
    Need("problems.json", _SOURCE),
    Need("pid_splits.json", _SOURCE),
    Need(
      "llava_test_CQM-A.json",
      "LLaVA's eval.zip (docs/Evaluation.md), eval/scienceqa",
    ),
  ),
  questions=questions,
  score=score,
  metrics=metrics,
  columns=(Column("img_accuracy", "SQA-I"), Column("accuracy", "SQA")),
  max_new_tokens=1024,
  missing="empty",
)
