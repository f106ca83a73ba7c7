"""Finds the field of an answer row with the model's answer."""

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


# Texts of a row that are not a model's words.
_ABOUT = {"question", "prompt", "label", "category", "type", "split", "source"}


def refuse_guesses(
  questions: Sequence[Question],
  rows: Sequence[Mapping[str, Any]],
  benchmark: Benchmark,
) -> None:
  """Raises UserError if the chosen field does not hold the model's answer.

  `text` holds the question in some files, and `answer` the right answer: then
  every row equals its question or the right answer, and the model's answer is
  in a field that is not read.
  """
  if not rows or any(row.get(NAMED) for row in rows):
    return
  names = {field_of(row) for row in rows}
  said = [bare(text_of(row) or "") for row in rows]
  pairs = list(zip(questions, said, strict=True))
  name = names.pop() if len(names) == 1 else None
  if name is None:
    return
  if all(text and text == bare(q.text) for q, text in pairs):
    what = "the question"
  elif name == "answer" and all(
    text and text == bare(_label_of(q) or "") for q, text in pairs
  ):
    what = "the right answer"
  else:
    return
  others = [
    key
    for key, value in rows[0].items()
    if isinstance(value, str)
    and key != name
    and key not in _ABOUT
    and not key.startswith(("image", "img", "model"))
  ]
  if what == "the right answer" and not others:
    return  # a model that is right every time
  raise UserError(
    f"{benchmark.name}: the field {name!r} holds {what} in every row; "
    "--answer-field=NAME names the field with the model's answer"
    + (f" ({', '.join(others)}?)" if others else "")
  )
