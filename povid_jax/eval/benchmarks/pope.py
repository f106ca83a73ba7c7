"""POPE: yes/no questions about objects that are or are not in the picture.

Li et al., arXiv 2305.10355. Yes is the positive class.

  f1   mean of the F1 of the splits: what papers call "POPE"
  <split>/accuracy    questions answered rightly (random, popular, adversarial)
  <split>/precision   questions with a yes that is right / with a yes
  <split>/recall      right yes / questions about objects that are there
  <split>/f1          harmonic mean of these two
  <split>/yes_ratio   answers that are a yes

An answer is read as the original does (its evaluate.py, LLaVA's eval_pope.py):
the text before the first ".", without ",", cut at single spaces; "No", "not" or
"no" among the pieces is a no, **everything else is a yes** ("NO", "isn't", "no"
before a line break, an empty answer). With --clean-rules the first word yes, no
or not, in any case, decides ("...n't" is a no); an answer without any of them
is neither: wrong, and not a yes.

Precision is 0 when no yes is predicted, where the original divides by zero.
The random split may have 2910 lines (the copy that LLaVA pins) or 3000. Labels
go to LLaVA's questions by order within a split, as in the original; if the two
files have different lengths, by picture and question.
"""

import re
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

SPLITS = ("random", "popular", "adversarial")
_SOURCE = "https://github.com/RUCAIBox/POPE, output/coco"


def questions(data: Path, options: Options) -> list[Question]:
  """LLaVA's questions with the official labels, or the official questions.

  Ids are LLaVA's, or "<split>/<official id>". With a limit, the questions about
  that many pictures (the first ones) are kept.
  """
  splits = _wanted(data, options)
  merged = data / "llava_pope_test.jsonl"
  if merged.exists():
    rows = _rows(merged, ("category",))
    unlabelled = {row["category"] for row in rows} - set(splits)
    if unlabelled and options.split is None:
      raise UserError(
        f"{merged}: no labels of {', '.join(sorted(unlabelled))}; put "
        "coco_pope_<split>.json beside it, or choose one with --split"
      )
    asked = [
      (row["question_id"], row, label)
      for split in splits
      for row, label in _labelled(
        [r for r in rows if r["category"] == split], splits[split], merged
      )
    ]
  else:
    asked = [
      (f"{split}/{row['question_id']}", row | {"category": split}, row["label"])
      for split, official in splits.items()
      for row in official
    ]
  folder = needs.image_folder(data, options)
  return _limited(
    [_question(i, row, label, folder, options) for i, row, label in asked],
    options.limit,
  )


def _wanted(data: Path, options: Options) -> dict[str, list[dict[str, Any]]]:
  """split -> official rows, for the splits asked for that are there."""
  if options.split is not None and options.split not in SPLITS:
    raise UserError(
      f"pope: no split {options.split!r}; the splits are {', '.join(SPLITS)}"
    )
  splits = {}
  for split in SPLITS:
    path = data / f"coco_pope_{split}.json"
    if options.split in (None, split) and path.exists():
      splits[split] = _rows(path, ("label",))
      for row in splits[split]:
        if row["label"] not in ("yes", "no"):
          raise UserError(
            f"{path}: question {row['question_id']}: label {row['label']!r}, "
            "expected yes or no"
          )
  if not splits:
    raise UserError(f"pope: no coco_pope_{options.split}.json in {data}")
  return splits


def _rows(path: Path, more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
  text = needs.read_text(path).lstrip()
  rows = needs.read_json(path) if text[:1] == "[" else needs.read_jsonl(path)
  rows = list(rows)
  for number, row in enumerate(rows, 1):
    for name in ("question_id", "image", "text", *more):
      needs.field(row, name, path, number)
  return rows


def _labelled(
  rows: list[dict[str, Any]], official: list[dict[str, Any]], path: Path
) -> list[tuple[dict[str, Any], str]]:
  """LLaVA's rows of a split with their labels."""
  if len(rows) == len(official):
    labels = [entry["label"] for entry in official]
    return list(zip(rows, labels, strict=True))
  by_text = {(e["image"], _bare(e["text"])): e["label"] for e in official}
  labelled = []
  for row in rows:
    key = (row["image"], _bare(row["text"]))
    if key not in by_text:
      raise UserError(
        f"{path}: question {row['question_id']} ({row['image']}) has no label "
        f"in coco_pope_{row['category']}.json; use files of the same version"
      )
    labelled.append((row, by_text[key]))
  return labelled


def row_id(row: Mapping[str, Any]) -> Any:
  """The id of an answer row, with its split if the row names it."""
  given, split = protocol.row_id(row), row.get("category")
  return f"{split}/{given}" if split in SPLITS and given is not None else given


def _bare(text: str) -> str:
  """A question without suffix, and without the typo of old files."""
  return text.split("\n")[0].replace("imange", "image").strip()


def _question(
  question_id: Any,
  row: dict[str, Any],
  label: str,
  folder: Path,
  options: Options,
) -> Question:
  text = row["text"].split("\n")[0].strip()
  suffix = SHORT_ANSWER if options.prompt is None else options.prompt
  return Question(
    question_id,
    (in_folder(folder, row["image"]),),
    text + suffix,
    {
      "label": label,
      "category": row["category"],
      "image": row["image"],
      "official_id": row["question_id"],
      "aliases": (f"{row['category']}/{row['question_id']}",),
    },
  )


def _limited(asked: list[Question], limit: int | None) -> list[Question]:
  if limit is None:
    return asked
  pictures = list(dict.fromkeys(q.extra["image"] for q in asked))[:limit]
  kept = set(pictures)
  return [question for question in asked if question.extra["image"] in kept]


def says_yes(answer: str) -> bool:
  """The original's reading of an answer: yes unless it finds a no."""
  pieces = answer.split(".")[0].replace(",", "").split(" ")
  return not {"No", "not", "no"} & set(pieces)


def clean_reading(answer: str) -> bool | None:
  """True, False, or None where the answer says neither."""
  match = re.search(r"\b(yes|no|not)\b|n['’]t\b", answer.lower())
  return match.group() == "yes" if match else None


def score(
  data: Path, questions: Sequence[Question], answers: Answers, options: Options
) -> Scored:
  """Counts right and wrong yes and no; a unit is a picture."""
  scored = Scored()
  read = clean_reading if options.clean_rules else says_yes
  for question, answer in zip(questions, answers, strict=True):
    said, extra = read(answer or ""), question.extra
    truth, split = extra["label"] == "yes", extra["category"]
    outcome = "unclear" if said is None else f"{_word(said)}/{_word(truth)}"
    counts = {f"{split}/n": 1, f"{split}/{outcome}": 1, f"{split}/truth": truth}
    scored.count(extra["image"], {"n": 1, **counts})
    scored.verdicts.append(
      {
        "question_id": question.question_id,
        "unit": extra["image"],
        "category": split,
        "label": extra["label"],
        "said": "unclear" if said is None else _word(said),
        "correct": said == truth,
      }
    )
  unread = sum(clean_reading(answer or "") is None for answer in answers)
  meaning = "wrong" if options.clean_rules else "each counts as a yes"
  note_unread(scored, unread, len(answers), meaning)
  return scored


def _word(yes: bool) -> str:
  return "yes" if yes else "no"


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text; a split without questions has no metrics."""
  means = []
  for split in SPLITS:
    n = totals.get(f"{split}/n")
    if n is None:
      continue
    right_yes = totals.get(f"{split}/yes/yes", 0 * n)
    wrong_yes = totals.get(f"{split}/yes/no", 0 * n)
    right_no = totals.get(f"{split}/no/no", 0 * n)
    precision = ratio(right_yes, right_yes + wrong_yes)
    recall = ratio(right_yes, totals[f"{split}/truth"])
    means.append(protocol.f1(precision, recall))
    yield f"{split}/accuracy", ratio(right_yes + right_no, n)
    yield f"{split}/precision", precision
    yield f"{split}/recall", recall
    yield f"{split}/f1", means[-1]
    yield f"{split}/yes_ratio", ratio(right_yes + wrong_yes, n)
  if means:
    yield "f1", sum(means[1:], means[0]) / len(means)


BENCHMARK = Benchmark(
  name="pope",
  title="POPE",
  needs=(
    Need("coco_pope_*.json", _SOURCE),
    Need(
      "llava_pope_test.jsonl",
      "LLaVA's eval.zip (docs/Evaluation.md), eval/pope",
      optional=True,
    ),
  ),
  questions=questions,
  score=score,
  metrics=metrics,
  columns=(
    Column("f1", "POPE"),
    *(Column(f"{split}/f1", f"F1 {split}") for split in SPLITS),
    *(Column(f"{split}/yes_ratio", f"yes {split}") for split in SPLITS),
  ),
  max_new_tokens=128,
  row_id=row_id,
)
