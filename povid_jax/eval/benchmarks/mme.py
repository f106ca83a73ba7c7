"""MME: yes/no questions in pairs, 14 subtasks of perception and cognition.

Fu et al., arXiv 2306.13394. Files `<subtask>.txt` of the official eval_tool,
one question a line: picture, question, truth and, in answer files, prediction,
set apart by tabs. Per subtask, with 100 for all right:

  <subtask>/accuracy        questions answered rightly
  <subtask>/accuracy_plus   pictures with both questions answered rightly
  <subtask>/score           100 accuracy + 100 accuracy_plus (at most 200)
  perception, cognition     sums of the scores (at most 2000 and 800)

A prediction is read in lower case: "yes", else "no" within its first four
characters (blanks count), else neither (wrong). Pictures are pairs of
consecutive lines, as in the original; with --clean-rules lines are paired by
the picture's name, and the first word yes or no decides.

LLaVA asks with its short-answer suffix in place of "Please answer yes or no.";
so do we.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import needs
from povid_jax.eval.benchmarks.prompts import ASKS_YES_NO, SHORT_ANSWER
from povid_jax.eval.protocol import (
  Answers,
  Benchmark,
  Column,
  Metrics,
  Need,
  Options,
  Scored,
  Totals,
  note_unread,
  ratio,
)
from povid_jax.files import atomic_write

PERCEPTION = (
  *("existence", "count", "position", "color", "posters", "celebrity"),
  *("scene", "landmark", "artwork", "OCR"),
)
COGNITION = (
  "commonsense_reasoning",
  "numerical_calculation",
  "text_translation",
  "code_reasoning",
)
SUBTASKS = PERCEPTION + COGNITION


def _lines(path: Path, columns: int) -> list[list[str]]:
  """A file's rows; UserError names the line that has too few columns."""
  rows = []
  for number, line in enumerate(needs.read_text(path).split("\n"), 1):
    if not line.strip():
      continue
    row = line.split("\t")
    if len(row) < columns:
      raise UserError(
        f"{path}: line {number} has {len(row)} columns, want {columns}: "
        "picture, question, truth" + (", prediction" if columns == 4 else "")
      )
    rows.append([*(cell.strip() for cell in row[:3]), *row[3:]])
  return rows


def questions(data: Path, options: Options) -> list[Question]:
  """The questions of the subtasks whose files are there."""
  folder = needs.image_folder(data, options)
  suffix = SHORT_ANSWER if options.prompt is None else options.prompt
  found = []
  for subtask in SUBTASKS:
    path = data / f"{subtask}.txt"
    if not path.exists() or options.split not in (None, subtask):
      continue
    rows = _lines(path, 3)
    if len(rows) % 2:
      raise UserError(
        f"{path}: {len(rows)} questions, want an even number: two for each "
        "picture"
      )
    for number, (picture, text, truth, *_) in enumerate(rows):
      if truth.lower() not in ("yes", "no"):
        raise UserError(
          f"{path}: question {number + 1}: truth {truth!r}, want Yes or No"
        )
      asked = text.replace(ASKS_YES_NO, "").strip()
      found.append(
        Question(
          f"{subtask}/{picture}#{number}",
          (_picture(folder, subtask, picture),),
          asked + suffix,
          {
            "official_id": f"{subtask}/{picture}",
            "subtask": subtask,
            "picture": picture,
            "pair": number // 2,
            "label": truth.lower(),
            "text": text,
          },
        )
      )
  if not found:
    raise UserError(
      f"mme: no <subtask>.txt of {options.split or 'any subtask'} in {data}; "
      f"subtasks are {', '.join(SUBTASKS)}"
    )
  return found if options.limit is None else found[: 2 * options.limit]


def _picture(folder: Path, subtask: str, name: str) -> Path:
  """The release has some pictures in <subtask>/images/, some in <subtask>/."""
  inner = folder / subtask / "images" / name
  return inner if inner.exists() else folder / subtask / name


def read(path: Path) -> list[dict[str, Any]] | None:
  """Answers in the eval_tool's layout: a folder of <subtask>.txt, 4 columns."""
  if not path.is_dir() or not any(
    (path / f"{subtask}.txt").exists() for subtask in SUBTASKS
  ):
    return None
  rows = []
  for subtask in SUBTASKS:
    file = path / f"{subtask}.txt"
    for picture, text, _, said in (
      (row[:4] for row in _lines(file, 4)) if file.exists() else ()
    ):
      rows.append(
        {"question_id": f"{subtask}/{picture}", "prompt": text, "text": said}
      )
  return rows


def reading(answer: str) -> str:
  """The original's reading: yes, no or other."""
  start = answer.lower()[:4]
  return next((word for word in ("yes", "no") if word in start), "other")


def clean_reading(answer: str) -> str:
  """The first whole word yes or no."""
  match = re.search(r"\b(yes|no)\b", answer.lower())
  return match.group() if match else "other"


def score(
  data: Path, questions: Sequence[Question], answers: Answers, options: Options
) -> Scored:
  """Judges questions and pairs; a unit is a picture of a subtask."""
  scored = Scored()
  read_answer = clean_reading if options.clean_rules else reading
  pairs: dict[str, list[bool]] = defaultdict(list)
  subtask_of = {}
  for question, answer in zip(questions, answers, strict=True):
    extra = question.extra
    said = read_answer(answer or "")
    correct = said == extra["label"]
    mate = extra["picture"] if options.clean_rules else extra["pair"]
    unit = f"{extra['subtask']}/{mate}"
    pairs[unit].append(correct)
    subtask_of[unit] = extra["subtask"]
    scored.verdicts.append(
      {
        "question_id": question.question_id,
        "unit": unit,
        "subtask": extra["subtask"],
        "label": extra["label"],
        "said": said,
        "correct": correct,
      }
    )
  for unit, right in pairs.items():
    subtask = subtask_of[unit]
    scored.count(
      unit,
      {
        "n": len(right),
        f"{subtask}/n": len(right),
        f"{subtask}/right": sum(right),
        f"{subtask}/pairs": 1,
        f"{subtask}/pairs_right": all(right),
      },
    )
  unread = sum(v["said"] == "other" for v in scored.verdicts)
  note_unread(scored, unread, len(answers), "wrong")
  absent = [s for s in SUBTASKS if s not in subtask_of.values()]
  if absent:
    scored.notes.append(f"the sums do not contain {', '.join(absent)}")
  lone = Counter(len(right) for right in pairs.values())
  if any(size != 2 for size in lone):
    scored.notes.append("some pictures do not have two answered questions")
  return scored


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text."""
  scores = {}
  for subtask in SUBTASKS:
    if f"{subtask}/n" not in totals:
      continue
    accuracy = ratio(totals[f"{subtask}/right"], totals[f"{subtask}/n"])
    plus = ratio(totals[f"{subtask}/pairs_right"], totals[f"{subtask}/pairs"])
    scores[subtask] = 100 * accuracy + 100 * plus
    yield f"{subtask}/accuracy", accuracy
    yield f"{subtask}/accuracy_plus", plus
    yield f"{subtask}/score", scores[subtask]
  for name, group in (("perception", PERCEPTION), ("cognition", COGNITION)):
    held = [scores[subtask] for subtask in group if subtask in scores]
    if held:
      yield name, sum(held[1:], held[0])


def write(
  out: Path, data: Path, questions: Sequence[Question], answers: Answers
) -> None:
  """Leaves mme_submission/<subtask>.txt for the official eval_tool."""
  lines: dict[str, list[str]] = defaultdict(list)
  for question, answer in zip(questions, answers, strict=True):
    extra = question.extra
    said = " ".join((answer or "").split())
    row = (extra["picture"], extra["text"], extra["label"].capitalize(), said)
    lines[extra["subtask"]].append("\t".join(row))
  for subtask, rows in lines.items():
    with atomic_write(out / "mme_submission" / f"{subtask}.txt") as file:
      file.write("\n".join(rows) + "\n")


BENCHMARK = Benchmark(
  name="mme",
  title="MME",
  needs=(
    Need(
      "*.txt",
      "eval_tool.zip (Your_Results/*.txt), branch Evaluation of "
      "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models; "
      "pictures: MME_Benchmark_release_version",
    ),
  ),
  questions=questions,
  score=score,
  metrics=metrics,
  columns=(
    Column("perception", "MME-P", 1.0),
    Column("cognition", "MME-C", 1.0),
  ),
  max_new_tokens=128,
  read=read,
  write=write,
)
