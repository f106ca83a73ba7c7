"""Generates the answers to a benchmark's questions; a killed run can
continue.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import needs, results
from povid_jax.eval.protocol import Benchmark, Options
from povid_jax.files import atomic_write


def prepare(
  benchmark: Benchmark, folder: Path, options: Options, out: Path
) -> list[Question]:
  """The questions, with every picture in place, before a model is loaded.

  Raises:
    UserError: there are no questions, or pictures are missing.
  """
  questions = needs.questions(benchmark, folder, options)
  if benchmark.prepare is not None:
    benchmark.prepare(out, questions, options)
  check_pictures(benchmark, folder, questions)
  return questions


def check_pictures(
  benchmark: Benchmark, folder: Path, questions: Sequence[Question]
) -> None:
  """Raises UserError where there are no questions, or pictures are missing."""
  if not questions:
    raise UserError(
      f"{benchmark.name}: there are no questions in {folder}; check that the "
      "download is complete"
    )
  paths = dict.fromkeys(
    path for q in questions for path in q.images if isinstance(path, Path)
  )
  missing = [path for path in paths if not path.is_file()]
  if missing:
    raise UserError(
      f"{benchmark.name}: {len(missing)} of {len(paths)} pictures are "
      f"missing, the first is {missing[0]}; give their folder with --images"
    )


def ask(
  benchmark: Benchmark,
  policy: Any,
  questions: Sequence[Question],
  how: Mapping[str, Any],
  out: Path,
  overwrite: bool,
) -> list[str]:
  """The policy's answers, kept in OUT/answers/<benchmark>.jsonl as they come.

  Args:
    policy: from `decoding.load_policy`.
    how: keywords of `decoding.Decoding`.
    overwrite: drop answers of other settings instead of refusing.
  """
  from povid_jax.generate import answering

  path = out / "answers" / f"{benchmark.name}.jsonl"
  keep(path, {"checkpoint": policy.fingerprint, **how}, questions, overwrite)
  rows = answering.answer(policy, questions, answering.Decoding(**how), path)
  return [row["text"] for row in rows]


def keep(
  path: Path,
  how: Mapping[str, Any],
  questions: Sequence[Question],
  overwrite: bool,
) -> None:
  """Keeps earlier answers only if they come from the same model and prompts.

  Raises:
    UserError: they come from another model or prompt; the message names the
      setting.
  """
  texts = [[str(question.question_id), question.text] for question in questions]
  how = {**how, "questions": results.digest(texts)}
  held = path.with_suffix(".settings.json")
  before = needs.read_json(held) if held.exists() else {}
  # batching does not change answers, so it may change between attempts
  changed = [
    name
    for name in how
    if how[name] != before.get(name) and name != "batch_size"
  ]
  if path.exists() and changed:
    if not overwrite:
      raise UserError(
        f"{path} contains answers made with another {', '.join(changed)}; "
        "choose another --out, or give --overwrite"
      )
    path.unlink()
  with atomic_write(held) as file:
    json.dump(how, file, indent=1)
