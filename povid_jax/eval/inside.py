"""The answers of benchmarks that read the inside of a model."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import results
from povid_jax.eval.protocol import Options


def answers(
  policy: Any,
  questions: Sequence[Question],
  options: Options,
  name: str,
  noise: Any = None,
) -> list[str]:
  """The policy's answers; a run that was killed continues.

  They are kept in OUT/answers under a name that holds a hash of everything they
  depend on, so that answers of another model or prompt are never taken.

  Raises:
    UserError: there are no questions, or a picture is missing.
  """
  from povid_jax.generate import answering

  if not questions:
    raise UserError(f"{name}: there are no questions; check --data and --limit")
  for question in questions:
    for image in question.images:
      if isinstance(image, Path) and not image.is_file():
        raise UserError(
          f"{name}: picture {image} not found; give its folder with --images"
        )
  how = answering.Decoding(**options.extra.get("decoding", {}))
  asked = [
    [str(q.question_id), q.text, [str(i) for i in q.images]] for q in questions
  ]
  made_by = {k: v for k, v in asdict(how).items() if k != "batch_size"}
  drawn = None if noise is None else asdict(noise)
  mark = results.digest([policy.fingerprint, made_by, drawn, asked])
  folder = None if options.out is None else options.out / "answers"
  path = None if folder is None else folder / f"{name}-{mark}.jsonl"
  rows = answering.answer(policy, questions, how, path, noise)
  return [row["text"] for row in rows]


def rows(
  questions: Sequence[Question], given: Sequence[str], suffix: str = ""
) -> list[dict[str, Any]]:
  """Rows of answers.jsonl; `suffix` tells apart what was asked repeatedly."""
  pairs = zip(questions, given, strict=True)
  return [
    {
      "question_id": f"{q.question_id}{suffix}" if suffix else q.question_id,
      "prompt": q.text,
      "text": text,
    }
    for q, text in pairs
  ]
