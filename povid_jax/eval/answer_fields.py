"""Finds the field of an answer row with the model's answer."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval.answer_formats import NAMED
from povid_jax.eval.benchmarks.prompts import ASKS_YES_NO, SHORT_ANSWER
from povid_jax.eval.protocol import Benchmark
from povid_jax.llm.thoughts import strip_thoughts

# LLaVA, CHAIR, AMBER, the released POVID script, HallusionBench, MMBench
TEXT_FIELDS = (
  "text",
  "caption",
  "response",
  "model_prediction",
  "prediction",
  "answer",
)


def field_of(row: Mapping[str, Any]) -> str | None:
  return next((n for n in TEXT_FIELDS if isinstance(row.get(n), str)), None)


def text_of(row: Mapping[str, Any]) -> str | None:
  """An answer row's text under whichever name its format uses, without the
  thoughts of a model that thinks first."""
  name = field_of(row)
  return None if name is None else strip_thoughts(row[name])


def bare(text: Any) -> str:
  """A question in lower case without its picture and instruction."""
  words = str(text).replace("<image>", "").replace(ASKS_YES_NO, "")
  words = words.replace(SHORT_ANSWER.strip(), "").replace("imange", "image")
  return " ".join(words.lower().split())


def _label_of(question: Question) -> str | None:
  """The right answer that a question brings with it, if it is a text."""
  extra = question.extra
  for name in ("truth", "row"):
    if isinstance(extra.get(name), dict):
      extra = extra | extra[name]
  for name in ("label", "truth", "answer"):
    if isinstance(extra.get(name), str):
      return extra[name]
  return None


# Names of fields that hold a model's words in the files of some tool.
_SAID = re.compile(
  r"(?:model_?)?(?:text|caption|response|prediction|predict|pred|output|reply"
  r"|answer|generation|generated(?:_text)?|completion|raw_output)"
)


def refuse_guesses(
  questions: Sequence[Question],
  rows: Sequence[Mapping[str, Any]],
  benchmark: Benchmark,
) -> None:
  """Raises UserError if the chosen field may not hold the model's answer.

  `text` holds the question in some files, with or without an instruction, and
  `answer` or another one the right answer: then every row repeats its question
  or the right answer, and the model's answer is in a field that is not read. In
  others two fields could hold the answer, and they differ.
  """
  if not rows or any(row.get(NAMED) for row in rows):
    return
  names = {field_of(row) for row in rows}
  name = names.pop() if len(names) == 1 else None
  if name is None:
    return
  asked = [bare(q.text) for q in questions]
  right = [bare(_label_of(q) or "") for q in questions]

  def column(key: str) -> list[str]:
    return [bare(strip_thoughts(str(row.get(key, "")))) for row in rows]

  said = column(name)
  columns = {
    key: column(key)
    for key, value in rows[0].items()
    if isinstance(value, str) and key != name and _SAID.fullmatch(key)
  }
  others = [key for key, texts in columns.items() if texts != asked]
  wrong = [key for key in others if columns[key] != right]
  # `answer` beside a model's words is the right answer in most files
  rivals = [k for k in wrong if k != "answer" and columns[k] != said]
  if said == asked or (
    others and all(q and q in s for q, s in zip(asked, said, strict=True))
  ):
    what = "holds the question in every row"
  elif wrong and all(right) and said == right:
    what, others = "holds the right answer in every row", wrong
  elif rivals:
    what = f"and {rivals[0]!r} may both hold the answer, and they differ"
  else:
    return
  raise UserError(
    f"{benchmark.name}: the field {name!r} {what}; --answer-field=NAME names "
    "the field with the model's answer"
    + (f" ({', '.join(others)}?)" if others else "")
  )
