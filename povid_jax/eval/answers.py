"""Reads answers of any common format and puts each to its question."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import needs
from povid_jax.eval.benchmarks.prompts import ASKS_YES_NO, SHORT_ANSWER
from povid_jax.eval.protocol import Benchmark

# LLaVA, CHAIR, AMBER, the released POVID script, HallusionBench, MMBench
TEXT_FIELDS = (
  "text",
  "caption",
  "response",
  "model_prediction",
  "prediction",
  "answer",
)


@dataclass
class Matched:
  """Questions with their answers (None: there is none), and what was said."""

  questions: list[Question]
  answers: list[str | None]
  notes: list[str] = field(default_factory=list)


def read(path: Path, benchmark: Benchmark) -> list[dict[str, Any]]:
  """Answer rows of a file or folder that belong to a benchmark.

  A file is a JSON list, one JSON object per line, the original CHAIR's
  {"imgToEval": {...}}, or a mapping {id: text}. Rows that name a `benchmark`
  (our answers.jsonl) are kept if it is this one. In a folder the file is looked
  for as <benchmark>.jsonl, <benchmark>.json or answers.jsonl.

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
        f"{path} is a folder without {names[0]}, {names[1]} or answers.jsonl"
      )
    path = found[0]
  rows = [
    row
    for row in _rows(path)
    if row.get("benchmark", benchmark.name) == benchmark.name
  ]
  for number, row in enumerate(rows, 1):
    _check_text(row, path, number)
  return rows


def _rows(path: Path) -> list[dict[str, Any]]:
  text = needs.read_text(path)
  if text.lstrip()[:1] == "[" or path.suffix == ".json":
    try:
      value = json.loads(text)
    except json.JSONDecodeError:
      # many .json files of this field hold one object per line
      return list(needs.read_jsonl(path))
    return _from_json(value, path)
  return list(needs.read_jsonl(path))


def _from_json(value: Any, path: Path) -> list[dict[str, Any]]:
  if isinstance(value, dict):
    if isinstance(value.get("imgToEval"), dict):
      value = list(value["imgToEval"].values())
    elif value and all(isinstance(text, str) for text in value.values()):
      value = [{"question_id": k, "text": text} for k, text in value.items()]
    else:
      value = [value]
  if not isinstance(value, list) or not all(isinstance(r, dict) for r in value):
    raise UserError(f"{path}: expected a list of answers, each a JSON object")
  return value


def text_of(row: Mapping[str, Any]) -> str | None:
  """An answer row's text under whichever name its format uses."""
  for name in TEXT_FIELDS:
    if isinstance(row.get(name), str):
      return row[name]
  return None


def _check_text(row: Mapping[str, Any], path: Path, number: int) -> None:
  if text_of(row) is None:
    raise UserError(
      f"{path}: answer {number} (fields {', '.join(row) or 'none'}) has no "
      f"text; expected one of {', '.join(TEXT_FIELDS)}"
    )


def match(
  questions: Sequence[Question],
  rows: Sequence[Mapping[str, Any]],
  benchmark: Benchmark,
  missing: str | None = None,
  ignore_unknown: bool = False,
) -> Matched:
  """Puts answers to questions.

  By id where ids are unique. Where a benchmark's official ids repeat (POPE's
  splits count from 1 each, MME's two questions share a picture), an answer goes
  to the question that it repeats as `prompt` or `question`, else the k-th
  answer with an id to the k-th question with it. Rows without any id go by
  order, and there must be as many of them as there are questions. An answer
  given twice in the same words counts once.

  Args:
    missing: "error", "skip" or "empty"; None: the benchmark's own rule.
    ignore_unknown: pass over answers to questions that were not asked.

  Raises:
    UserError: answers for unknown ids, different answers for one id, or (with
      "error") questions without an answer.
  """
  ids = [benchmark.row_id(row) for row in rows]
  if rows and all(row_id is None for row_id in ids):
    return _by_order(questions, rows, benchmark)
  slots = _slots(questions, ids)
  answers: list[str | None] = [None] * len(questions)
  unknown, repeats, in_turn = [], 0, 0
  for row, row_id in zip(rows, ids, strict=True):
    places, text = slots.get(str(row_id), []), text_of(row)
    if len(places) > 1:
      places, told = _asked(places, questions, row)
      in_turn += not told
    free = [place for place in places if answers[place] is None]
    if free:
      answers[free[0]] = text
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
      f"{benchmark.name}: {len(unknown)} answers are for ids that no question "
      f"has: {_first(unknown)}; questions have ids such as "
      f"{_first(q.question_id for q in questions)}"
    )
  matched = _without(questions, answers, benchmark, missing)
  if repeats:
    matched.notes.append(f"{repeats} answers were given twice and count once")
  if in_turn:
    matched.notes.append(
      f"{in_turn} answers have an id that several questions have, and do not "
      "repeat their question: the first goes to the first such question"
    )
  return matched


def _asked(
  places: Sequence[int], questions: Sequence[Question], row: Mapping[str, Any]
) -> tuple[Sequence[int], bool]:
  """Of the questions with one id, those that a row repeats; was there one?"""
  said = _bare(row.get("prompt") or row.get("question") or "")
  same = [p for p in places if said and _bare(questions[p].text) == said]
  return (same, True) if same else (places, False)


def _bare(text: Any) -> str:
  """A question in lower case without its picture and instruction."""
  words = str(text).replace("<image>", "").replace(ASKS_YES_NO, "")
  words = words.replace(SHORT_ANSWER.strip(), "").replace("imange", "image")
  return " ".join(words.lower().split())


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
      f"{benchmark.name}: answers without ids go by order, but there are "
      f"{len(rows)} answers for {len(questions)} questions"
    )
  return Matched(
    list(questions),
    [text_of(row) for row in rows],
    ["answers have no ids: matched by order"],
  )


def _slots(
  questions: Sequence[Question], ids: Sequence[Any]
) -> dict[str, list[int]]:
  """id -> places of its questions: by our ids if they fit, else by official."""
  own: dict[str, list[int]] = defaultdict(list)
  official: dict[str, list[int]] = defaultdict(list)
  for place, question in enumerate(questions):
    names = (question.question_id, *question.extra.get("aliases", ()))
    for name in dict.fromkeys(map(str, names)):  # picture 1 may be "1.jpg"
      own[name].append(place)
    given = question.extra.get("official_id", question.question_id)
    official[str(given)].append(place)
  fits = sum(str(row_id) in own for row_id in ids)
  return own if fits >= sum(str(i) in official for i in ids) else official


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
  # where answers choose the pictures, nothing is missing
  notes = []
  if missing is not None:
    notes = [f"{len(absent)} of {len(questions)} questions have no answer"]
  return Matched([q for q, _ in kept], [a for _, a in kept], notes)
