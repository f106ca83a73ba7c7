"""HallusionBench: questions in groups about a picture and its edited twin.

Guan et al., arXiv 2310.14566. From HallusionBench.json:

  aAcc   questions answered rightly
  qAcc   questions that are right for every figure they are asked about: all
         items of one (category, subcategory, set_id, question_id)
  fAcc   figures about which every question is right: all items of one
         (category, subcategory, set_id, figure_id); VS without a figure
         (figure_id 0) is left out
  easy, hard   qAcc of the items whose picture is original or absent
               (visual_input 0, 1), and of those where it is edited (2); as in
               the original's code, though its table says accuracy per question
  easy_items, hard_items   aAcc of the same items
  unclear   answers that are neither a yes nor a no / answers

The original asks GPT-4 whether the answer agrees with the reference. Here, as
in VLMEvalKit, the words yes and no of the answer decide: one of them and not
the other; both or neither is unclear. Its way of cutting words makes "yes:" and
"*yes*" other words than "yes". Unclear is wrong, except for VS without a
figure, where nobody can know and unclear is right. With --clean-rules the first
of the two words decides, and unclear is always wrong.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from povid_jax.data.picture import in_folder
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import needs, protocol
from povid_jax.eval.benchmarks.prompts import SHORT_ANSWER
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

FIELDS = ("category", "subcategory", "set_id", "figure_id", "question_id")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'


def item_id(row: Mapping[str, Any]) -> str:
  """An item's id: its category, subcategory, set, figure and question."""
  return "/".join(str(row[name]) for name in FIELDS)


def row_id(row: Mapping[str, Any]) -> Any:
  """The id of an answer row; the official file repeats the item's fields."""
  if all(name in row for name in FIELDS):
    return item_id(row)
  return protocol.row_id(row)


def questions(data: Path, options: Options) -> list[Question]:
  """The items of HallusionBench.json, in its order."""
  path = data / "HallusionBench.json"
  folder = needs.image_folder(data, options)
  suffix = SHORT_ANSWER if options.prompt is None else options.prompt
  found = []
  for number, row in enumerate(needs.read_json(path), 1):
    for name in (*FIELDS, "visual_input", "question", "gt_answer"):
      needs.field(row, name, path, number)
    if str(row["gt_answer"]) not in ("0", "1"):
      raise UserError(
        f"{path}: entry {number}: gt_answer {row['gt_answer']!r}, want 0 or 1"
      )
    file = row.get("filename")
    found.append(
      Question(
        item_id(row),
        (in_folder(folder, file),) if file else (),
        row["question"] + suffix,
        {
          name: str(row[name])
          for name in (*FIELDS, "visual_input", "gt_answer")
        },
      )
    )
  return found if options.limit is None else found[: options.limit]


def reading(answer: str) -> str:
  """yes, no, or unclear where both words are there or neither is."""
  words = set(_without_marks(answer.lower()).split())
  held = [word for word in ("yes", "no") if word in words]
  return held[0] if len(held) == 1 else "unclear"


def _without_marks(text: str) -> str:
  """VLMEvalKit's process_punctuation: a mark vanishes if it stands beside a
  blank somewhere or if a number has a comma, else it becomes a blank; the first
  32 full stops that are in no number vanish."""
  vanish = re.search(r"\d,\d", text)
  gone = {m for m in _MARKS if vanish or m + " " in text or " " + m in text}
  cut = {ord(mark): "" if mark in gone else " " for mark in _MARKS}
  return re.sub(r"(?<!\d)\.(?!\d)", "", text.translate(cut), count=32)


def clean_reading(answer: str) -> str:
  """The first of the two words."""
  match = re.search(r"\b(yes|no)\b", answer.lower())
  return match.group() if match else "unclear"


def score(
  data: Path, questions: Sequence[Question], answers: Answers, options: Options
) -> Scored:
  """Judges items, questions and figures; a unit is a set of pictures."""
  scored = Scored()
  groups: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
  for question, answer in zip(questions, answers, strict=True):
    extra = question.extra
    unit = "/".join(extra[n] for n in ("category", "subcategory", "set_id"))
    blind = extra["category"] == "VS" and extra["figure_id"] == "0"
    read = clean_reading if options.clean_rules else reading
    said = read(answer or "")
    correct = said == ("yes" if extra["gt_answer"] == "1" else "no")
    if said == "unclear" and blind and not options.clean_rules:
      correct = True
    part = "hard" if extra["visual_input"] == "2" else "easy"
    scored.count(
      unit,
      {
        "n": 1,
        "right": correct,
        f"{part}_items/n": 1,
        f"{part}_items/right": correct,
        "unclear": said == "unclear",
      },
    )
    groups[unit, "qAcc", extra["question_id"]].append(correct)
    groups[unit, part, extra["question_id"]].append(correct)
    if not blind:
      groups[unit, "fAcc", extra["figure_id"]].append(correct)
    scored.verdicts.append(
      {
        "question_id": question.question_id,
        "unit": unit,
        "label": "yes" if extra["gt_answer"] == "1" else "no",
        "said": said,
        "correct": correct,
      }
    )
  for (unit, name, _), right in groups.items():
    scored.count(unit, {f"{name}/n": 1, f"{name}/right": all(right)})
  unread = sum(v["said"] == "unclear" for v in scored.verdicts)
  meaning = "wrong, but for VS without a picture"
  note_unread(scored, unread, len(answers), meaning)
  return scored


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text; a part without items has no metric."""
  yield "aAcc", ratio(totals["right"], totals["n"])
  for name in ("qAcc", "fAcc", "easy", "hard", "easy_items", "hard_items"):
    if f"{name}/n" in totals:
      yield name, ratio(totals[f"{name}/right"], totals[f"{name}/n"])
  yield "unclear", ratio(totals["unclear"], totals["n"])


BENCHMARK = Benchmark(
  name="hallusionbench",
  title="HallusionBench",
  needs=(
    Need(
      "HallusionBench.json",
      "https://github.com/tianyi-lab/HallusionBench; pictures: its "
      "hallusion_bench.zip",
    ),
  ),
  questions=questions,
  score=score,
  metrics=metrics,
  columns=tuple(
    Column(name, name) for name in ("aAcc", "qAcc", "fAcc", "easy", "hard")
  ),
  max_new_tokens=128,
  row_id=row_id,
)
