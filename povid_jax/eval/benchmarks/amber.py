"""AMBER: descriptions and yes/no questions about the same pictures, no LLM.

Wang et al., arXiv 2311.07397. Descriptions (ids 1-1004):

  CHAIR   hallucinated nouns / nouns of the vocabulary, repetition counted
  Cover   annotated objects that are named / annotated objects
  Hal     descriptions with a hallucinated noun / descriptions
  Cog     annotated likely hallucinations that are named / those annotated
  accuracy, precision, recall, f1   of the yes/no questions, with **No as the
          positive class**
  <kind>/accuracy and so on   the same for the questions about existence,
          attribute, state, number, action, relation
  AMBER   (100 - CHAIR + F1) / 2, on its own scale

As in the original (inference.py): every denominator has 0.001 added (attribute,
which sums three counters, 0.003); rates are rounded to 0.1 points and F1 is
computed from rounded precision and recall, plus 0.0001 (existence: 0.001) in
its denominator; only the exact words "Yes" and "No" count; capitals matter, so
a noun that starts a sentence is not found; the safe words (such as "orange")
are never hallucinated but stay in CHAIR's denominator; a noun goes to the first
object it fits, associations before the objects themselves. With --clean-rules
nothing is added or rounded, yes and no are read from the first word, capitals
do not matter, and a noun goes to the object of its own name first.

How nouns are found and compared without downloads: amber_nouns.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from povid_jax.data.picture import in_folder
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import needs, protocol
from povid_jax.eval.benchmarks import amber_nouns
from povid_jax.eval.benchmarks.amber_words import (
  judge,
  read_lexicon,
  slots,
)
from povid_jax.eval.benchmarks.prompts import SHORT_ANSWER
from povid_jax.eval.protocol import (
  Answers,
  Benchmark,
  Column,
  Flags,
  Metrics,
  Need,
  Options,
  Scored,
  Totals,
  note_unread,
  ratio,
)

_SOURCE = "https://github.com/junyangwang0410/AMBER, data"
TYPES = {
  "discriminative-hallucination": ("existence",),
  "discriminative-attribute-state": ("attribute", "state"),
  "discriminative-attribute-number": ("attribute", "number"),
  "discriminative-attribute-action": ("attribute", "action"),
}
GROUPS = ("existence", "attribute", "state", "number", "action", "relation")
SPLITS = {"g": None, "d": GROUPS, "de": ("existence",)}
SPLITS |= {"da": ("attribute",), "dr": ("relation",)}


def groups(kind: str) -> tuple[str, ...]:
  """The groups that a question of some type belongs to."""
  return TYPES.get(kind, ("relation",))


def questions(data: Path, options: Options) -> list[Question]:
  """Descriptions and questions; `split` is g, d, de, da or dr as in AMBER."""
  if options.split is not None and options.split not in SPLITS:
    raise UserError(f"amber: no split {options.split!r}; {', '.join(SPLITS)}")
  path = data / "annotations.json"
  truths = {}
  for number, row in enumerate(needs.read_json(path), 1):
    for name in ("id", "type", "truth"):
      needs.field(row, name, path, number)
    truths[row["id"]] = row
  folder = needs.image_folder(data, options)
  suffix = SHORT_ANSWER if options.prompt is None else options.prompt
  found = []
  for row in needs.read_json(next(data.glob("**/query_all.json"))):
    truth = truths.get(row["id"])
    if truth is None:
      raise UserError(f"{path}: no annotation for question {row['id']}")
    describes = truth["type"] == "generative"
    if not _wanted(truth["type"], options.split):
      continue
    found.append(
      Question(
        row["id"],
        (in_folder(folder, row["image"]),),
        row["query"] + ("" if describes else suffix),
        {"truth": truth, "image": row["image"]},
      )
    )
  if options.limit is None:
    return found
  kept = list(dict.fromkeys(q.extra["image"] for q in found))[: options.limit]
  return [q for q in found if q.extra["image"] in set(kept)]


def _wanted(kind: str, split: str | None) -> bool:
  if split is None:
    return True
  if kind == "generative":
    return split == "g"
  return bool(set(SPLITS[split] or ()) & set(groups(kind)))


def score(
  data: Path, questions: Sequence[Question], answers: Answers, options: Options
) -> Scored:
  """Judges descriptions and questions; a unit is a picture."""
  scored = Scored()
  lexicon, clean = read_lexicon(data), options.clean_rules
  how = _rules(options.extra)
  find = amber_nouns.nouns(how["nouns"], lexicon.vocabulary, clean)
  alike = amber_nouns.alike(how["similarity"])
  for question, answer in zip(questions, answers, strict=True):
    row = question.extra["truth"]
    if row["type"] != "generative":
      _score_question(scored, question, answer or "", clean)
      continue
    found = [n for n in find(answer or "") if n in lexicon.vocabulary]
    truth = slots(row["truth"], lexicon, clean)
    likely = slots(row.get("hallu", ()), lexicon, clean)
    wrong = judge(found, truth, likely, lexicon, alike)
    scored.count(
      question.extra["image"],
      {
        "Hal/n": 1,
        "Hal": bool(wrong),
        "CHAIR/n": len(found),
        "CHAIR": len(wrong),
        "Cover/n": len(truth.named),
        "Cover": sum(truth.named),
        "Cog/n": len(likely.named),
        "Cog": sum(likely.named),
      },
    )
    scored.verdicts.append(
      {
        "question_id": question.question_id,
        "unit": question.extra["image"],
        "correct": not wrong,
        "nouns": found,
        "hallucinated": wrong,
      }
    )
  if how != {"nouns": "nltk", "similarity": "spacy"}:
    scored.notes.append(
      f"nouns by {how['nouns']}, likeness {how['similarity']}: CHAIR, Cover, "
      "Hal and Cog differ from the original's (nltk, spacy)"
    )
  said = [v["said"] for v in scored.verdicts if "said" in v]
  meaning = "wrong"
  if not options.clean_rules:
    meaning += (
      ", as the original reads the exact words Yes and No only; --clean-rules "
      "reads the first word"
    )
  note_unread(scored, said.count("other"), len(said), meaning)
  return scored


def _score_question(
  scored: Scored, question: Question, answer: str, clean: bool
) -> None:
  row = question.extra["truth"]
  said = answer
  if clean:
    words = "".join(c if c.isalpha() else " " for c in answer).split()
    said = words[0].capitalize() if words else ""
  says_no, is_no = said == "No", row["truth"] == "no"
  correct = says_no if is_no else said == "Yes"
  counts = {}
  for prefix in ("", *(f"{group}/" for group in groups(row["type"]))):
    counts |= {
      f"{prefix}n": 1,
      f"{prefix}right": correct,
      f"{prefix}said_no": says_no,
      f"{prefix}is_no": is_no,
      f"{prefix}both_no": says_no and is_no,
    }
  scored.count(question.extra["image"], counts)
  scored.verdicts.append(
    {
      "question_id": question.question_id,
      "unit": question.extra["image"],
      "type": row["type"],
      "label": row["truth"],
      "said": said if said in ("Yes", "No") else "other",
      "correct": correct,
    }
  )


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text; groups without items have no metrics."""
  clean = options.clean_rules
  found = {}
  if "Hal/n" in totals:
    for name in ("CHAIR", "Cover", "Hal", "Cog"):
      found[name] = _rate(totals[name], totals[f"{name}/n"], clean)
    if not clean:  # the original subtracts the rate of faultless descriptions
      faultless = totals["Hal/n"] - totals["Hal"]
      share = 100 * faultless / (totals["Hal/n"] + 0.001)
      found["Hal"] = _tenth(100 - share) / 100
  for prefix in ("", *(f"{group}/" for group in GROUPS)):
    if f"{prefix}n" not in totals:
      continue
    held = {name: totals[f"{prefix}{name}"] for name in _COUNTS}
    for name, value in _discriminative(held, prefix, clean):
      found[f"{prefix}{name}"] = value
  yield from found.items()
  if "CHAIR" in found and "f1" in found:
    yield "AMBER", (100 - 100 * found["CHAIR"] + 100 * found["f1"]) / 2


_COUNTS = ("n", "right", "said_no", "is_no", "both_no")


def _discriminative(
  held: Mapping[str, np.ndarray], prefix: str, clean: bool
) -> Metrics:
  # the original adds up the counters of state, number and action
  parts = 3 if prefix == "attribute/" else 1
  precision = _rate(held["both_no"], held["said_no"], clean, parts)
  recall = _rate(held["both_no"], held["is_no"], clean, parts)
  yield "accuracy", _rate(held["right"], held["n"], clean, parts)
  yield "precision", precision
  yield "recall", recall
  if clean:
    yield "f1", protocol.f1(precision, recall)
    return
  # divided by 100 as the original does, so that the last digit agrees
  added = 0.001 if prefix == "existence/" else 0.0001
  value = 2 * precision * recall / (precision + recall + added)
  yield "f1", _tenth(value * 100) / 100


def _rate(
  part: np.ndarray, whole: np.ndarray, clean: bool, counters: int = 1
) -> np.ndarray:
  if clean:
    return ratio(part, whole)
  return _tenth(part / (whole + 0.001 * counters) * 100) / 100


def _tenth(values: np.ndarray) -> np.ndarray:
  """Python's rounding to one decimal, which is not NumPy's."""
  return np.array([round(float(value), 1) for value in np.atleast_1d(values)])


def _add_flags(group: Any) -> None:
  group.add_argument(
    "--nouns",
    choices=("vocabulary", "nltk"),
    default="vocabulary",
    help="how nouns are found; nltk needs the package and its data",
  )
  group.add_argument(
    "--similarity",
    choices=("exact", "spacy"),
    default="exact",
    help="how nouns are compared; spacy needs the package and en_core_web_lg",
  )


def _rules(extra: Mapping[str, Any]) -> dict[str, Any]:
  return {
    "nouns": extra.get("nouns", "vocabulary"),
    "similarity": extra.get("similarity", "exact"),
  }


BENCHMARK = Benchmark(
  name="amber",
  title="AMBER",
  flags=Flags("amber", _add_flags, lambda args: _rules(vars(args)), _rules),
  needs=(
    Need("annotations.json", _SOURCE),
    Need("relation.json", _SOURCE),
    Need("**/query_all.json", f"{_SOURCE}/query"),
    Need("safe_words.txt", _SOURCE, optional=True),
  ),
  questions=questions,
  score=score,
  metrics=metrics,
  columns=(
    *(Column(name, name) for name in ("CHAIR", "Cover", "Hal", "Cog")),
    Column("accuracy", "Acc"),
    Column("f1", "F1"),
    Column("AMBER", "AMBER", 1.0),
  ),
  max_new_tokens=1024,
  missing="skip",
)
