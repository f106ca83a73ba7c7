"""LLaVA-Bench (in the wild): 60 open questions, rated against GPT-4's answers.

Liu et al., arXiv 2304.08485. The judge reads a description of the picture and
two answers, first the one that text-only GPT-4 gave from that description, then
the candidate's, and rates each 1..10.

  score             100 * mean rating of the candidate / mean rating of GPT-4
  candidate, reference   these two means
  <category>/score  the same for conv, detail, complex

As in the original, the ratings are the two pieces of the reply's first line,
cut at single spaces after "," became " "; if there are not exactly two ("8, 9"
has three) or they are no numbers, both ratings are **-1 and take part in the
means**, and means are rounded to three decimals before they are divided. With
--clean-rules the first line that begins with two ratings is taken (or the last
number after each answerer's name), replies without them are left out, and
nothing is rounded.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from povid_jax import files
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

CATEGORIES = ("conv", "detail", "complex")
VERSION = "llava_bench-1"
TEMPERATURE, MAX_TOKENS = 0.2, 1024
SYSTEM = "You judge the quality of answers, helpfully and precisely."
UNREAD = (-1.0, -1.0)
_SOURCE = "https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"


def questions(data: Path, options: Options) -> list[Question]:
  """The questions with their pictures' descriptions and GPT-4's answers."""
  captions = _captions(data / "context.jsonl")
  references = _references(data / "answers_gpt4.jsonl")
  folder, path = needs.image_folder(data, options), data / "questions.jsonl"
  asked = []
  for number, row in enumerate(needs.read_jsonl(path), 1):
    name, image, text, category = (
      needs.field(row, key, path, number)
      for key in ("question_id", "image", "text", "category")
    )
    if image not in captions:
      raise UserError(f"{path}: question {name}: no {image} in context.jsonl")
    if name not in references:
      raise UserError(f"{path}: question {name}: not in answers_gpt4.jsonl")
    extra = {
      "image": image,
      "question": text,
      "category": category,
      "context": captions[image],
      "reference": references[name],
    }
    text += options.prompt or ""
    asked.append(Question(name, (in_folder(folder, image),), text, extra))
  return asked[: options.limit]


def _captions(path: Path) -> dict[str, str]:
  captions = {}
  for number, row in enumerate(needs.read_jsonl(path), 1):
    caption = needs.field(row, "caption", path, number)
    if isinstance(caption, list):
      caption = "\n".join(caption)
    captions[needs.field(row, "image", path, number)] = caption
  return captions


def _references(path: Path) -> dict[Any, str]:
  rows = enumerate(needs.read_jsonl(path), 1)
  return {
    needs.field(row, "question_id", path, i): needs.field(row, "text", path, i)
    for i, row in rows
  }


def pair(reply: str) -> tuple[float, float]:
  """The original's reading of a reply: (reference, candidate) or -1, -1."""
  pieces = reply.split("\n")[0].replace(",", " ").split(" ")
  if len(pieces) != 2:
    return UNREAD
  try:
    first, second = map(float, pieces)
  except ValueError:
    return UNREAD
  return (first, second) if math.isfinite(first + second) else UNREAD


_RATING = r"((?:10|\d)(?:\.\d+)?)(?:\s*/\s*10)?(?![\d.]*\d)"
_LINE = re.compile(rf"\W*{_RATING}[\s,;|&*]+{_RATING}(?:\W*$|[\s,].*)")
_LABELLED = (
  r"\b(?:assistant|answer|response|candidate|model)\s*#?\s*{}\b\D{{0,20}}?"
)


def clean_pair(reply: str) -> tuple[float, float] | None:
  """The verdict of a reply, two ratings 0..10: the first line that begins with
  two numbers, else the last number after each answerer's name; or None."""
  found = None
  for line in reply.strip().split("\n"):
    if found := _LINE.match(line.strip()):
      break
  if found:
    ratings = float(found[1]), float(found[2])
  else:
    named = [
      re.findall(_LABELLED.format(name) + _RATING, reply, re.I)
      for name in ("(?:1|A)", "(?:2|B)")
    ]
    if not all(named):
      return None
    ratings = float(named[0][-1]), float(named[1][-1])
  return ratings if max(ratings) <= 10 else None


def score(
  data: Path, questions: Sequence[Question], answers: Answers, options: Options
) -> Scored:
  """Has every pair of answers rated; a unit is a picture."""
  judge = judges.of(options)
  prompt = judges.load_prompt(judge, "llava_bench", VERSION)
  rules = _rules(prompt)
  tasks = [
    judges.Task(str(q.question_id), _messages(rules, q, answer or ""))
    for q, answer in zip(questions, answers, strict=True)
  ]
  # the text is the value: an unreadable reply has ratings too
  verdicts = judges.settle(
    judge, "llava_bench", tasks, lambda text: text, (TEMPERATURE,), MAX_TOKENS
  )
  scored, unread = Scored(), 0
  judges.record(scored, judge, prompt)
  for question, task in zip(questions, tasks, strict=True):
    reply = verdicts[task.key].text
    ratings = clean_pair(reply) if options.clean_rules else pair(reply)
    unread += ratings in (None, UNREAD)
    if ratings is not None:
      _count(scored, question, ratings, reply)
  if unread:
    what = "left out" if options.clean_rules else "-1 for both"
    scored.notes.append(f"{unread} replies do not contain two ratings: {what}")
  return scored


def _rules(prompt: judges.Prompt) -> dict[str, tuple[str, str]]:
  """category -> (instruction, what an answerer is called); LLaVA's rule.json
  has one of each per category, a plain text serves for all."""
  if not prompt.text.lstrip().startswith("{"):
    text = prompt.text.strip()
    return {category: (text, "Assistant") for category in CATEGORIES}
  try:
    rules = files.parse_json(prompt.text)
    return {
      category: (rule["prompt"], rule["role"])
      for category in CATEGORIES
      for rule in [rules[f"llava_bench_{category}"]]
    }
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"judge prompt ({prompt.version}): want a text, or LLaVA's rule.json "
      f"with prompt and role of llava_bench_{{{','.join(CATEGORIES)}}}"
    ) from error


def _messages(
  rules: dict[str, tuple[str, str]], question: Question, answer: str
) -> Any:
  extra = question.extra
  if extra["category"] not in rules:
    raise UserError(
      f"question {question.question_id}: category {extra['category']!r}, want "
      f"one of {', '.join(rules)}"
    )
  rule, role = rules[extra["category"]]
  parts = [
    f"[Context]\n{extra['context']}",
    f"[Question]\n{extra['question']}",
    f"[{role} 1]\n{extra['reference']}",
    f"[End of {role} 1]",
    f"[{role} 2]\n{answer}",
    f"[End of {role} 2]",
    f"[System]\n{rule}",
    "",
  ]
  content = "\n\n".join(parts)
  system = {"role": "system", "content": SYSTEM}
  return lambda attempt: [system, {"role": "user", "content": content}]


def _count(
  scored: Scored,
  question: Question,
  ratings: tuple[float, float],
  reply: str,
) -> None:
  reference, candidate = ratings
  category = question.extra["category"]
  counts = {}
  for head in ("", f"{category}/"):
    counts |= {
      f"{head}n": 1.0,
      f"{head}reference": reference,
      f"{head}candidate": candidate,
    }
  scored.count(question.extra["image"], counts)
  scored.verdicts.append(
    {
      "question_id": question.question_id,
      "unit": question.extra["image"],
      "category": category,
      "reference": reference,
      "candidate": candidate,
      "judge": reply,
    }
  )


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text; a category without questions has no metrics."""
  for head in ("", *(f"{category}/" for category in CATEGORIES)):
    if f"{head}n" not in totals:
      continue
    means = [
      ratio(totals[f"{head}{name}"], totals[f"{head}n"])
      for name in ("candidate", "reference")
    ]
    if not options.clean_rules:
      means = [np.round(mean, 3) for mean in means]
    candidate, reference = means
    yield f"{head}score", 100 * ratio(candidate, reference)
    yield f"{head}candidate", candidate
    yield f"{head}reference", reference


BENCHMARK = Benchmark(
  name="llava_bench",
  title="LLaVA-Bench",
  needs=tuple(
    Need(name, _SOURCE)
    for name in ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl")
  ),
  questions=questions,
  score=score,
  judged=True,
  metrics=metrics,
  columns=(
    Column("score", "", 1.0),
    *(Column(f"{name}/score", name, 1.0) for name in CATEGORIES),
  ),
)
