"""Dispreferred answers from a checkpoint that sees distorted pictures.

  python -m data_gen sample-noisy --checkpoint RUN --input train.json \
    --image-dir images --out pairs.jsonl

Asks the first question of each sample over a picture with diffusion noise, and
writes the released preference format with the model's answer as the rejected
one (SeVa did this, with a fixed noise). `povid` objectives draw such answers
during training; this is the offline way, once, to look at and to keep.

Answers are appended to OUT's .answers.jsonl as they come: the same command
continues after a stop. An answer equal to the correct one says nothing: those
samples are left out, with their ids in skipped.jsonl beside OUT.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_gen.encode import check_picture, read_picture
from data_gen.job import Paths, check_output
from data_gen.shards import source_digest
from povid_jax.data.pairs import (
  Sample,
  read_samples,
  write_samples,
)
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.files import atomic_write

if TYPE_CHECKING:  # JAX is imported when the command runs, not for its --help
  from povid_jax.generate.answering import Decoding, Noise


SAME = "answer equal to the correct one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--checkpoint", required=True, help="RUN, RUN@STEP or a model folder")
  add("--input", "--pairs", required=True, dest="input", help=(
    "samples with correct answers, .json or .jsonl; rejected answers in it "
    "are replaced"
  ))  # fmt: skip
  add("--image-dir", required=True, help="folder of the pictures they name")
  add("--out", required=True, help="pairs to write, .json or .jsonl")
  add("--noise-step", type=int, default=500, help="0..999 (default 500)")
  add("--overflow", choices=("wrap", "clip"), default="wrap", help=(
    "noisy values outside 0..255: wrap as released, or clip"
  ))  # fmt: skip
  add("--seed", type=int, default=0, help="of noise and sampling")
  add("--limit", type=int, help="samples to use, from the start")
  add("--max-new-tokens", type=int, default=256, help="default 256")
  add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
  add("--top-p", type=float, default=1.0, help="default 1: all tokens")
  add("--on-bad-sample", choices=("raise", "skip"), default="raise", help=(
    "skip: go on, and list the ids and reasons in skipped.jsonl"
  ))  # fmt: skip
  add("--batch-size", type=int, default=16, help="default 16")
  add("--dtype", help="float32 or bfloat16 (default: by device)")


def to_question(sample: Sample, key: str, image_dir: str) -> Question:
  """The first question of a sample, its pictures looked at from outside.

  Raises:
    UserError: no picture to distort, or one that is missing or broken.
  """
  try:
    if not sample.images:
      raise UserError("has no image to put noise on")
    for name in sample.images:
      check_picture(read_picture(image_dir, name), f"image {name!r}")
  except UserError as error:
    raise UserError(f"id {sample.id[:80]!a}: {error}") from error
  text = sample.turns[0].replace("<image>", "").strip()
  paths = tuple(Path(image_dir, name) for name in sample.images)
  return Question(question_id=key, images=paths, text=text)


def question_keys(samples: Sequence[Sample]) -> list[str]:
  """The ids; one that is there again becomes id#2, id#3, ..."""
  keys: dict[str, None] = {}
  for sample in samples:
    key, number = sample.id, 1
    while key in keys:
      number += 1
      key = f"{sample.id}#{number}"
    keys[key] = None
  return list(keys)


Left = list[dict[str, str]]  # rows {id, reason} of what is left out


def make_questions(
  samples: Sequence[Sample], image_dir: str, skip: bool
) -> tuple[list[tuple[Sample, Question]], Left]:
  """Every sample with its question, bad ones left out if they may be.

  Raises:
    UserError: the first bad sample, unless `skip`.
  """
  good, left = [], []
  for sample, key in zip(samples, question_keys(samples), strict=True):
    try:
      good.append((sample, to_question(sample, key, image_dir)))
    except UserError as error:
      if not skip:
        raise
      left.append({"id": sample.id, "reason": str(error)})
  return good, left


def _same(left: str, right: str) -> bool:
  return left.split() == right.split()


def pair(sample: Sample, text: str, facts: dict[str, Any]) -> Sample | str:
  """The sample with the noisy answer as the rejected one, or why not.

  Only the first exchange is kept: what comes later was said about another
  answer.
  """
  if not text.strip():
    return "empty answer"
  if _same(text, sample.turns[1]):
    return SAME
  extra = {k: v for k, v in sample.extra.items() if k != "edits"}
  return dataclasses.replace(
    sample,
    turns=sample.turns[:2],
    rejected=(sample.turns[0], text.strip()),
    extra=extra | facts,
  )


def split_pairs(
  samples: Iterable[Sample], answers: Iterable[str], facts: dict[str, Any]
) -> tuple[list[Sample], Left]:
  """The pairs, and what makes none."""
  pairs: list[Sample] = []
  left: Left = []
  for sample, text in zip(samples, answers, strict=True):
    made = pair(sample, text, facts)
    if isinstance(made, str):
      left.append({"id": sample.id, "reason": made})
    else:
      pairs.append(made)
  return pairs, left


def _facts(
  checkpoint: str, decoding: "Decoding", noise: "Noise"
) -> dict[str, Any]:
  """What decides the answers; kept in each pair and in the settings file."""
  sampled = dataclasses.asdict(decoding)
  del sampled["batch_size"]
  return {
    "injector": json.dumps(
      {
        "name": "noisy-picture",
        "checkpoint": checkpoint,
        "noise": dataclasses.asdict(noise),
        "decoding": sampled,
      },
      sort_keys=True,
    )
  }


def _claim(answers: Path, facts: dict[str, Any]) -> None:
  """Holds a file of answers to what decided them when it was begun.

  Raises:
    UserError: it was begun with others.
  """
  settings = answers.with_suffix(".settings.json")
  if not settings.exists():
    if answers.exists():
      raise UserError(f"{answers} is not from this command; remove it")
    with atomic_write(settings) as file:
      file.write(json.dumps(facts))
  elif json.loads(settings.read_text()) != facts:
    raise UserError(
      f"{answers} was begun with other settings or another input; remove it "
      f"and {settings.name}, or name another --out"
    )


def _read(args: argparse.Namespace) -> tuple[list[Sample], Left]:
  left: Left = []
  skip = args.on_bad_sample == "skip"
  note = lambda error: left.append({"id": "", "reason": str(error)})
  samples = read_samples(args.input, note if skip else None)[: args.limit]
  if not samples:
    raise UserError(f"{args.input}: holds no samples")
  return samples, left


def _finish(out: Path, pairs: list[Sample], left: Left) -> None:
  write_samples(out, pairs)
  skipped = Paths(out).skipped
  with atomic_write(skipped) as file:
    file.writelines(json.dumps(row) + "\n" for row in left)
  print(f"{len(pairs):,} pairs: {out}")
  if left:
    same = sum(row["reason"] == SAME for row in left)
    print(
      f"{len(left):,} left out ({same:,} with the correct answer): {skipped}"
    )


def main(args: argparse.Namespace) -> int:
  if not 0 <= args.noise_step <= 999:
    raise UserError("--noise-step: want 0 to 999")
  if args.limit is not None and args.limit < 1:
    raise UserError("--limit: want 1 or more")
  out = Path(args.out)
  check_output(out, args.input)
  samples, malformed = _read(args)
  asked, bad = make_questions(
    samples, args.image_dir, args.on_bad_sample == "skip"
  )
  from povid_jax.generate import answering

  how = answering.Decoding(
    max_new_tokens=args.max_new_tokens,
    temperature=args.temperature,
    top_p=args.top_p,
    seed=args.seed,
    batch_size=args.batch_size,
  )
  noise = answering.Noise(args.noise_step, args.overflow, args.seed)
  policy = answering.load_policy(args.checkpoint, args.dtype)
  facts = _facts(policy.fingerprint, how, noise)
  answers = out.with_name(f"{out.stem}.answers.jsonl")
  asked_of = {"input": source_digest(args.input), "images": args.image_dir}
  _claim(answers, facts | asked_of)
  questions = [question for _, question in asked]
  rows = answering.answer(policy, questions, how, answers, noise)
  good, texts = [s for s, _ in asked], [row["text"] for row in rows]
  pairs, left = split_pairs(good, texts, facts)
  _finish(out, pairs, malformed + bad + left)
  return 0
