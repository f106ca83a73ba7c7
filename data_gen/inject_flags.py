"""The flags that every injector has."""

import argparse
from pathlib import Path

from data_gen.gates import Limits
from povid_jax import bounds
from povid_jax.data import samples
from povid_jax.errors import UserError


def add_common(parser: argparse.ArgumentParser) -> None:
  """Input, output, and which samples are worked on."""
  add = parser.add_argument
  add("--input", "--pairs", required=True, dest="input", help=(
    "samples of any format (docs/data.md) or COCO captions; rejected answers "
    "in this file are replaced"
  ))  # fmt: skip
  samples.add_arguments(parser)
  add("--out", required=True, help="pairs to write, .jsonl or .json")
  add("--image-dir", help="folder of the pictures that the samples name")
  add("--annotations", nargs="+", default=[], metavar="FILE", help=(
    "COCO instances_*.json (and captions_*.json): the objects that are in "
    "the pictures; without it, the objects that the answers mention"
  ))  # fmt: skip
  add(
    "--limit",
    type=bounds.whole(1),
    metavar="N",
    help="only the first N samples",
  )
  add("--categories", nargs="+", default=[], metavar="NAME", help=(
    "only samples of these categories (their own `category`, or captioning, "
    "reasoning, vqa guessed from the question)"
  ))  # fmt: skip
  add("--pairs-per-sample", type=bounds.whole(1, 1000), default=1, metavar="N",
      help="different pairs made from each sample (default 1)")  # fmt: skip
  add("--seed", type=bounds.SEED, default=0, help="seed of the random choices")
  add("--tries", type=bounds.whole(1, 1000), default=3, metavar="N", help=(
    "attempts per item before it is written to rejected.jsonl"
  ))  # fmt: skip
  add("--on-bad-sample", choices=("raise", "skip"), default="raise", help=(
    "skip: continue, and list the bad samples with reasons in skipped.jsonl"
  ))  # fmt: skip
  add("--resume", action=argparse.BooleanOptionalAction, default=True, help=(
    "continue from the journal (default); --no-resume renames the old "
    "journal and starts from the beginning"
  ))  # fmt: skip
  add("--dry-run", action="store_true", help=(
    "print counts and three samples, and for a server also tokens and cost; "
    "write nothing"
  ))  # fmt: skip


def add_gates(parser: argparse.ArgumentParser) -> None:
  """Bounds of the gates for edited answers."""
  default = Limits()
  add = parser.add_argument_group("quality gates").add_argument
  add("--min-length", type=bounds.number(), default=default.min_length,
      help="least words, relative to the correct answer")  # fmt: skip
  add("--max-length", type=bounds.number(), default=default.max_length,
      help="most words, relative to the correct answer")  # fmt: skip
  add("--min-similarity", type=bounds.SHARE,
      default=default.min_similarity,
      help="least share of words kept in order, 0..1")  # fmt: skip


def check(args: argparse.Namespace) -> None:
  """Raises UserError for common flags with invalid values."""
  if Path(args.out).suffix not in (".json", ".jsonl"):
    raise UserError(
      f"--out {args.out}: want a name that ends in .jsonl or .json"
    )
