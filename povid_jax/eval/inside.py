"""Shared by benchmarks that look into the model: their flags, their answers."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import results
from povid_jax.eval.protocol import Options

CLEAN = "clean"
STEPS = f"{CLEAN},250,500,750,999"


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of preference, attention and noise_sweep."""
  group = parser.add_argument_group(
    "benchmarks that look into the model (preference, attention, noise_sweep)"
  )
  add = group.add_argument
  add(
    "--pairs",
    type=Path,
    metavar="PATH",
    help="preference: held-out pairs, a folder of TFRecords or a .json/.jsonl "
    "in the released format (default: in DATA/preference)",
  )
  add(
    "--reference",
    metavar="RUN[@STEP]",
    help="preference: the reference model (default: the checkpoint with its "
    "adapter off)",
  )
  add(
    "--beta",
    type=float,
    default=0.1,
    help="preference: DPO's beta, the scale of rewards (0.1)",
  )
  add(
    "--heat-maps",
    type=int,
    default=4,
    metavar="N",
    help="attention: draw the first N responses (4)",
  )
  add(
    "--noise-steps",
    default=STEPS,
    metavar="K,...",
    help=f"noise_sweep: diffusion steps 0..999, or {CLEAN} ({STEPS})",
  )


def from_args(
  args: argparse.Namespace, decoding: Mapping[str, Any]
) -> dict[str, Any]:
  """What `Options.extra` holds for these benchmarks."""
  if args.beta <= 0:
    raise UserError(f"--beta={args.beta}: want more than 0")
  return {
    "decoding": dict(decoding),
    "pairs": args.pairs,
    "reference": args.reference,
    "beta": args.beta,
    "heat_maps": args.heat_maps,
    "noise_steps": noise_steps(args.noise_steps),
  }


def noise_steps(value: str) -> tuple[int | None, ...]:
  """ "clean,500" -> (None, 500)."""
  steps: list[int | None] = []
  for word in filter(None, (word.strip() for word in value.split(","))):
    if word != CLEAN and not re.fullmatch(r"[0-9]{1,3}", word):
      raise UserError(
        f"--noise-steps={value}: want steps 0..999 or {CLEAN}, got {word!r}"
      )
    steps.append(None if word == CLEAN else int(word))
  if not steps:
    raise UserError("--noise-steps: want at least one step")
  return tuple(dict.fromkeys(steps))


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
    UserError: no questions, or a picture that is not there.
  """
  from povid_jax.generate import answering

  if not questions:
    raise UserError(f"{name}: there are no questions to ask")
  for question in questions:
    for image in question.images:
      if isinstance(image, Path) and not image.is_file():
        raise UserError(
          f"{name}: no picture {image}; --images names their folder"
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
