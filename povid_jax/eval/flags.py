"""Flags of `povid_jax.eval`: what to ask, how to decode, how to judge."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from povid_jax import bounds
from povid_jax.errors import UserError
from povid_jax.eval import benchmarks as registry
from povid_jax.eval import judge_flags
from povid_jax.eval.protocol import Benchmark, Options


def add(parser: argparse.ArgumentParser, required: bool = True) -> None:
  """Adds the flags of an evaluation to a parser.

  Args:
    required: False: the parser also gives the defaults without them.
  """
  _add_what(parser, required)
  _add_questions(parser)
  _add_decoding(parser)
  _add_rules(parser)
  judge_flags.add_flags(parser)
  for own in registry.flags():
    own.add(parser.add_argument_group(own.title))


def _add_what(parser: argparse.ArgumentParser, required: bool) -> None:
  what = parser.add_mutually_exclusive_group(required=required)
  what.add_argument(
    "--checkpoint",
    metavar="RUN[@STEP]",
    help="a run directory (its last step, or STEP) or a model folder",
  )
  what.add_argument(
    "--answers",
    type=Path,
    metavar="FILE",
    help="score these answers instead: LLaVA's JSONL (question_id, text), the "
    "released one (id, answer), CHAIR's (image_id, caption), AMBER's (id, "
    "response), samples of lmms-eval, tables of VLMEvalKit (.xlsx, .tsv); or "
    "a folder with one file per benchmark",
  )
  parser.add_argument(
    "--answer-field",
    metavar="NAME",
    help="field of a row of --answers with the model's answer (default: the "
    "first of text, caption, response, prediction, answer that exists; "
    "a.b is the field b of the object a)",
  )
  parser.add_argument(
    "--benchmarks",
    required=required,
    metavar="NAME,...",
    help=f"any of {', '.join(registry.MODULES)}",
  )
  parser.add_argument(
    "--data",
    type=Path,
    metavar="DIR",
    help="folder that contains DIR/<benchmark>/ with the official files",
  )
  parser.add_argument(
    "--out",
    type=Path,
    required=required,
    metavar="DIR",
    help="folder for the results",
  )


def _add_questions(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group(
    "questions",
    "a value can be for all benchmarks or for one: --limit=500 or "
    "--limit=chair=500; a flag may be repeated",
  )
  group.add_argument(
    "--image-dir",
    "--images",
    dest="images",
    type=Path,
    metavar="DIR",
    help="pictures (default: images/ in the benchmark's folder or in --data)",
  )
  for flag, meta, text in (
    ("--split", "NAME", "one part of a benchmark that has several"),
    (
      "--prompt",
      "TEXT",
      "use this instead of the benchmark's own prompt or suffix",
    ),
    ("--limit", "N", "only this many pictures or questions"),
    ("--max-new-tokens", "N", "longest answer (default: the benchmark's own)"),
  ):
    group.add_argument(
      flag,
      action="append",
      default=[],
      metavar=f"[BENCHMARK=]{meta}",
      help=text,
    )
  group.add_argument(
    "--missing",
    choices=("error", "skip", "empty"),
    help="questions without an answer: stop with an error, skip, or score as "
    "empty (default: the benchmark's own rule)",
  )


def _add_decoding(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("decoding")
  group.add_argument(
    "--temperature",
    type=bounds.TEMPERATURE,
    default=0.0,
    help="0 is greedy (the default)",
  )
  group.add_argument(
    "--top-p", type=bounds.TOP_P, default=1.0, help="default 1"
  )
  group.add_argument(
    "--top-k", type=bounds.TOP_K, default=0, help="0 (default): all"
  )
  group.add_argument(
    "--batch-size", type=bounds.ROWS, default=16, help="default 16"
  )
  group.add_argument(
    "--dtype", help="dtype of the weights (default: by the device)"
  )
  group.add_argument(
    "--seed",
    type=bounds.SEED,
    default=0,
    help="seed of sampling, of the choice of pictures and of the intervals",
  )
  group.add_argument(
    "--overwrite",
    action="store_true",
    help="remove answers in --out that were made with other settings",
  )


def _add_rules(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("rules of scoring")
  group.add_argument(
    "--clean-rules",
    action="store_true",
    help="use the clean rule where the original has a bug that changes a score",
  )
  group.add_argument(
    "--resamples",
    type=bounds.RESAMPLES,
    default=1000,
    help="samples of the bootstrap (1000)",
  )


def benchmarks(names: str) -> list[Benchmark]:
  """The benchmarks of a comma-separated list, each once."""
  chosen = [name.strip() for name in names.split(",") if name.strip()]
  if not chosen:
    raise UserError(f"--benchmarks: want any of {', '.join(registry.MODULES)}")
  return [registry.get(name) for name in dict.fromkeys(chosen)]


def chosen(values: Sequence[str], name: str) -> str | None:
  """The value for a benchmark: its own if given, else the general one."""
  general = own = None
  for value in values:
    head, equals, rest = value.partition("=")
    if equals and head in registry.MODULES:
      own = rest if head == name else own
    else:
      general = value
  return own if own is not None else general


def whole(values: Sequence[str], name: str, flag: str) -> int | None:
  """The same for a positive whole number."""
  value = chosen(values, name)
  if value is None:
    return None
  if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < 1:
    raise UserError(f"{flag}={value}: want a whole number of at least 1")
  return int(value)


def options(args: argparse.Namespace, benchmark: Benchmark) -> Options:
  """The options of one benchmark."""
  own: dict[str, Any] = {}
  for flags in registry.flags():
    own |= flags.read(args)
  return Options(
    clean_rules=args.clean_rules,
    prompt=chosen(args.prompt, benchmark.name),
    limit=whole(args.limit, benchmark.name, "--limit"),
    seed=args.seed,
    images=args.images,
    split=chosen(args.split, benchmark.name),
    out=args.out,
    extra={
      "judge": judge_flags.from_args(args),
      "decoding": decoding(args, benchmark),
      **own,
    },
  )


def rules(held: Options) -> dict[str, Any]:
  """The options that change a score, as results.json keeps them."""
  kept: dict[str, Any] = {"clean_rules": held.clean_rules}
  for flags in registry.flags():
    kept |= flags.rules(held.extra)
  return {**kept, "seed": held.seed}


def decoding(args: argparse.Namespace, benchmark: Benchmark) -> dict[str, Any]:
  """How one benchmark's answers are decoded, as keywords of `Decoding`."""
  length = whole(args.max_new_tokens, benchmark.name, "--max-new-tokens")
  return {
    "max_new_tokens": length or benchmark.max_new_tokens,
    "temperature": args.temperature,
    "top_p": args.top_p,
    "top_k": args.top_k,
    "seed": args.seed,
    "batch_size": args.batch_size,
  }
