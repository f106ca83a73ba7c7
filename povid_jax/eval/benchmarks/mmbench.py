"""MMBench: multiple choice, asked once per rotation of the options.

Liu et al., arXiv 2307.06281. From an official TSV; rows that rotate the options
of question i have the index i + k * 1,000,000.

  accuracy          CircularEval: questions that are right in all their rows
  single_accuracy   rows that are right
  category/<name>, l2-category/<name>   accuracy of a part
  unread            rows from whose answer no letter could be read

A letter is read from an answer without an LLM (`letter`, then `text`); where
both fail the original asks ChatGPT and then draws a letter, here the row is
wrong. With --clean-rules a letter counts in any case and before any
punctuation.

Every run leaves mmbench_submission.xlsx for the official server; a TSV without
answers gives nothing else.
"""

import base64
import csv
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import needs
from povid_jax.eval.benchmarks.prompts import CHOICE
from povid_jax.eval.benchmarks.xlsx import write_xlsx
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

LETTERS = "ABCD"
READ = "ABCDE"  # letters looked for in answers
ROTATION = 1_000_000
PARTS = ("category", "l2-category")
DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")
# what may stand around a letter, in the order in which it is looked for
_AROUND = (
  *(("", "."), ("", ","), ("", ":"), ("", ")"), ("", ").")),
  *(("(", ")"), ("(", ")."), (":", ""), (":", ","), (":", "."), (":", ")")),
  (":", ")."),
)


def rows(data: Path, options: Options) -> list[dict[str, str]]:
  """The rows of the TSV; `split` is a part of its name if there are several."""
  paths = [
    path
    for path in sorted(data.glob("*.tsv"))
    if options.split is None or options.split in path.name
  ]
  if len(paths) != 1:
    raise UserError(
      f"mmbench: want one TSV in {data}, found "
      f"{', '.join(p.name for p in paths) or 'none'}; choose with --split=PART"
    )
  csv.field_size_limit(2**31 - 1)  # pictures are base64 in a cell
  text = io.StringIO(needs.read_text(paths[0]), newline="")
  found = list(csv.DictReader(text, delimiter="\t"))
  for number, row in enumerate(found, 1):
    for name in ("index", "question", "A", "B"):
      needs.field(row, name, paths[0], number)
    if not (row["index"] or "").isdigit():
      raise UserError(
        f"{paths[0]}: entry {number}: index {row['index']!r}, want a number"
      )
  return found


def _given(value: str | None) -> bool:
  return value is not None and value.strip().lower() not in ("", "nan", "none")


def questions(data: Path, options: Options) -> list[Question]:
  """One question per row, in LLaVA's wording."""
  out = (options.out or data) / "mmbench_images"
  suffix = CHOICE if options.prompt is None else options.prompt
  found, table = [], rows(data, options)
  for row in table:
    choices = {c: row[c] for c in LETTERS if _given(row.get(c))}
    lines = [row["hint"]] if _given(row.get("hint")) else []
    lines += [row["question"]]
    lines += [f"{letter}. {text}" for letter, text in choices.items()]
    index = int(row["index"])
    found.append(
      Question(
        index,
        (out / f"{index % ROTATION}.jpg",),
        "\n".join(lines) + suffix,
        {"row": row, "choices": choices},
      )
    )
  if options.limit is None:
    return found
  kept = list(dict.fromkeys(q.question_id % ROTATION for q in found))
  wanted = set(kept[: options.limit])
  return [q for q in found if q.question_id % ROTATION in wanted]


def prepare(out: Path, questions: Sequence[Question], options: Options) -> None:
  """Decodes the pictures of the TSV into files."""
  cells = {q.question_id: q.extra["row"].get("image") or "" for q in questions}
  for question in questions:
    (path,), cell = question.images, cells[question.question_id]
    assert isinstance(path, Path)
    if path.exists():
      continue
    if len(cell) < 64 and cell.isdigit():  # the index of the row that has it
      cell = cells.get(int(cell), "")
    try:
      data = base64.b64decode(cell, validate=True)
    except ValueError as error:
      raise UserError(
        f"mmbench: question {question.question_id}: its image is not base64 "
        "text; check that the download is complete"
      ) from error
    with atomic_write(path, "wb") as file:
      file.write(data)


def letter(answer: str) -> str | None:
  """The one letter A-E that stands alone in an answer, or None.

  A letter that is no option counts, so that "B or E" is neither. A bare "A" in
  an answer of more than three words may be the article and does not count.
  """
  words = answer.split()
  alone = [choice for choice in READ if choice in words]
  if len(alone) == 1 and not ("A" in words and len(words) > 3):
    return alone[0]
  for before, after in _AROUND:
    held = [c for c in READ if f"{before}{c}{after}" in words]
    if len(held) == 1:
      return held[0]
  return None


def text(answer: str, choices: Mapping[str, str]) -> str | None:
  """The one option whose text the answer contains, or None."""
  answer = answer.lower()
  held = [c for c, words in choices.items() if words.lower() in answer]
  return held[0] if len(held) == 1 else None


def clean_letter(answer: str, choices: Mapping[str, str]) -> str | None:
  """A letter in any case that is all of the answer or stands before a mark."""
  match = re.match(r"\W*([A-Za-z])(?:\s*$|[^\w\s])", answer)
  found = match.group(1).upper() if match else None
  return found if found in choices else None


def infer(answer: str, choices: Mapping[str, str], clean: bool) -> str | None:
  """The chosen option, or None where it cannot be told."""
  found = clean_letter(answer, choices) if clean else None
  return found or letter(answer) or text(answer, choices)


def score(
  data: Path, questions: Sequence[Question], answers: Answers, options: Options
) -> Scored:
  """Judges questions with all their rotations; a unit is a question."""
  scored = Scored()
  groups: dict[int, list[tuple[str | None, str | None]]] = defaultdict(list)
  first: dict[int, dict[str, str]] = {}
  for question, answer in zip(questions, answers, strict=True):
    extra, base = question.extra, int(question.question_id) % ROTATION
    said = infer(answer or "", extra["choices"], options.clean_rules)
    truth = extra["row"].get("answer")
    groups[base].append((said, truth if _given(truth) else None))
    first.setdefault(base, extra["row"])
  for base, group in groups.items():
    _judge(scored, base, group, first[base])
  if any(truth is None for group in groups.values() for _, truth in group):
    scored.notes.append(
      "the TSV has no answers, so only the submission is written"
    )
  return scored


def _judge(
  scored: Scored,
  base: int,
  group: list[tuple[str | None, str | None]],
  row: Mapping[str, str],
) -> None:
  counts = {
    "unread": sum(said is None for said, _ in group),
    "unread/n": len(group),
  }
  verdict = {
    "question_id": base,
    "unit": str(base),
    "said": [s for s, _ in group],
  }
  if all(truth is not None for _, truth in group):
    right = [said == truth for said, truth in group]
    counts |= {"n": 1, "right": all(right)}
    counts |= {"single_accuracy/n": len(right), "single": sum(right)}
    for part in PARTS:
      if _given(row.get(part)):
        name = f"{part}/{row[part]}"
        counts |= {f"{name}/n": 1, f"{name}/right": all(right)}
    verdict |= {"label": [t for _, t in group], "correct": all(right)}
  scored.count(base, counts)
  scored.verdicts.append(verdict)


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text."""
  if "n" in totals:
    yield "accuracy", ratio(totals["right"], totals["n"])
    yield (
      "single_accuracy",
      ratio(totals["single"], totals["single_accuracy/n"]),
    )
  for key in totals:
    part = key.removesuffix("/right")
    if part != key:
      yield part, ratio(totals[key], totals[f"{part}/n"])
  yield "unread", ratio(totals["unread"], totals["unread/n"])


def write(
  out: Path, data: Path, questions: Sequence[Question], answers: Answers
) -> None:
  """Leaves mmbench_submission.xlsx as LLaVA's convert script lays it out."""
  if not questions:
    return
  names = [n for n in questions[0].extra["row"] if n not in DROPPED]
  names.insert(6, "prediction")
  table: list[list[str | int | None]] = [list(names)]
  for question, answer in zip(questions, answers, strict=True):
    row = {**question.extra["row"], "prediction": answer}
    cells = [row[name] if _given(row.get(name)) else None for name in names]
    table.append(
      [
        int(row["index"]) if name == "index" else cell
        for name, cell in zip(names, cells, strict=True)
      ]
    )
  write_xlsx(out / "mmbench_submission.xlsx", table)


BENCHMARK = Benchmark(
  name="mmbench",
  title="MMBench",
  needs=(
    Need(
      "*.tsv",
      "https://github.com/open-compass/MMBench (LLaVA uses "
      "mmbench_dev_20230712.tsv)",
    ),
  ),
  questions=questions,
  score=score,
  metrics=metrics,
  columns=(Column("accuracy", "MMBench"),),
  max_new_tokens=1024,
  prepare=prepare,
  write=write,
)
