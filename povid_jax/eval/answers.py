"""Reads answers of any common format and matches them to questions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import answer_fields, answer_formats
from povid_jax.eval import answer_places as places_of
from povid_jax.eval.answer_fields import TEXT_FIELDS, text_of
from povid_jax.eval.protocol import Benchmark


@dataclass
class Matched:
  """Questions with their answers (None: no answer), and the notes to print."""

  questions: list[Question]
  answers: list[str | None]
  notes: list[str] = field(default_factory=list)


def read(
  path: Path, benchmark: Benchmark, field: str | None = None
) -> list[dict[str, Any]]:
  """Answer rows of a file or folder that belong to a benchmark.

  A file is in one of the formats of `answer_formats.rows_of`. Rows that name a
  `benchmark` (our answers.jsonl) are kept if it is this one. In a folder the
  file is looked for as <benchmark>.jsonl, <benchmark>.json or answers.jsonl.

  Args:
    path: the file or folder.
    benchmark: whose answers they are.
    field: where a row holds the model's words; None: one of TEXT_FIELDS.

  Raises:
    UserError: no such file, not UTF-8, not JSON, or a row without a text.
  """
  if benchmark.read is not None:
    rows = benchmark.read(path)
    if rows is not None:
      return rows
  if path.is_dir():
    names = [f"{benchmark.name}.jsonl", f"{benchmark.name}.json"]
    found = [path / n for n in [*names, "answers.jsonl"] if (path / n).exists()]
    if not found:
      raise UserError(
        f"{path} is a folder that contains none of {names[0]}, {names[1]} or "
        "answers.jsonl"
      )
    path = found[0]
  rows = [
    row
    for row in answer_formats.rows_of(path)
    if row.get("benchmark", benchmark.name) == benchmark.name
  ]
  if field is not None:
    return answer_formats.with_field(rows, field, path)
  for number, row in enumerate(rows, 1):
    _check_text(row, path, number)
  return rows


def _check_text(row: Mapping[str, Any], path: Path, number: int) -> None:
  if text_of(row) is None:
    raise UserError(
      f"{path}: answer {number} (fields {', '.join(row) or 'none'}) has no "
      f"text; expected one of {', '.join(TEXT_FIELDS)}, or --answer-field=NAME"
    )


def match(
  questions: Sequence[Question],
  rows: Sequence[Mapping[str, Any]],
  benchmark: Benchmark,
  missing: str | None = None,
  ignore_unknown: bool = False,
) -> Matched:
  """Matches answers to questions.

  By id where ids are unique; by question and picture where no id is known, and
  where a row repeats another question than that of its id. Where a benchmark's
  official ids repeat (POPE's splits count from 1 each, MME's two questions
  share a picture), an answer goes to the question that it repeats as `prompt`
  or `question`, else the k-th answer with an id to the k-th question with it.
  Rows without any id go by order, and there must be as many of them as there
  are questions. An answer given twice in the same words counts once.

  Args:
    missing: "error", "skip" or "empty"; None: the benchmark's own rule.
    ignore_unknown: pass over answers to questions that were not asked.

  Raises:
    UserError: answers for unknown ids, different answers for one id, a field
      that holds the questions or the truth, or (with "error") questions without
      an answer.
  """
  ids = [benchmark.row_id(row) for row in rows]
  if rows and all(row_id is None for row_id in ids):
    matched = _by_order(questions, rows, benchmark)
    answer_fields.refuse_guesses(questions, rows, benchmark)
    return matched
  slots = places_of.slots(questions, ids)
  others = places_of.by_text(questions)
  pictures = places_of.pictures_of(questions)
  by_words = None
  if rows and places_of.of_another_file(questions, rows, ids, slots, others):
    by_words = places_of.by_words(questions, rows, others)
    slots, ids = by_words or (slots, ids)
  answers: list[str | None] = [None] * len(questions)
  unknown, repeats, in_turn = [], 0, 0
  used: list[tuple[Question, Mapping[str, Any]]] = []
  for row, row_id in zip(rows, ids, strict=True):
    places, text = slots.get(str(row_id), []), text_of(row)
    places = places_of.agreeing(
      places, questions, row, others, pictures, benchmark
    )
    if len(places) > 1:
      places, told = places_of.asked(places, questions, row)
      in_turn += not told
    free = [place for place in places if answers[place] is None]
    if free:
      answers[free[0]] = text
      used.append((questions[free[0]], row))
    elif not places:
      unknown.append(row_id)
    elif text in [answers[place] for place in places]:
      repeats += 1
    else:
      raise UserError(
        f"{benchmark.name}: two different answers for question {row_id}; "
        "keep one"
      )
  if unknown and not ignore_unknown:
    raise UserError(
      f"{benchmark.name}: {len(unknown)} answers have ids that no question "
      f"has: {_first(unknown)}; questions have ids such as "
      f"{_first(q.question_id for q in questions)}"
    )
  if used:
    asked, rows_used = zip(*used, strict=True)
    answer_fields.refuse_guesses(asked, rows_used, benchmark)
  matched = _without(questions, answers, benchmark, missing)
  if by_words:
    matched.notes.append(
      "the ids of the answers are not those of the benchmark; answers are "
      "matched by question and picture"
    )
  if repeats:
    matched.notes.append(f"{repeats} answers occur twice and count once")
  if in_turn:
    matched.notes.append(
      f"{in_turn} answers have an id that several questions have, and do not "
      "repeat their question: the first goes to the first such question"
    )
  return matched


def _first(values: Iterable[Any], count: int = 3) -> str:
  values = list(values)
  more = ", ..." if len(values) > count else ""
  return ", ".join(str(value) for value in values[:count]) + more


def _by_order(
  questions: Sequence[Question],
  rows: Sequence[Mapping[str, Any]],
  benchmark: Benchmark,
) -> Matched:
  if len(rows) != len(questions):
    raise UserError(
      f"{benchmark.name}: answers without ids are matched by order, but there "
      f"are {len(rows)} answers for {len(questions)} questions"
    )
  return Matched(
    list(questions),
    [text_of(row) for row in rows],
    ["the answers have no ids, so they are matched by order"],
  )


def _without(
  questions: Sequence[Question],
  answers: Sequence[str | None],
  benchmark: Benchmark,
  missing: str | None,
) -> Matched:
  """Applies the rule for questions that have no answer."""
  rule = missing or benchmark.missing
  absent = [
    q.question_id for q, a in zip(questions, answers, strict=True) if a is None
  ]
  if not absent or rule == "empty":
    notes = [f"{len(absent)} questions have no answer"] if absent else []
    return Matched(list(questions), list(answers), notes)
  if rule == "error":
    raise UserError(
      f"{benchmark.name}: {len(absent)} of {len(questions)} questions have no "
      f"answer: {_first(absent)}; --missing=skip leaves them out, "
      "--missing=empty scores them as empty"
    )
  kept = [
    (q, a) for q, a in zip(questions, answers, strict=True) if a is not None
  ]
  # if the answers choose the pictures, no answer is missing
  notes = []
  if missing is not None:
    notes = [f"{len(absent)} of {len(questions)} questions have no answer"]
  return Matched([q for q, _ in kept], [a for _, a in kept], notes)
