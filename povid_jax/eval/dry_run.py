"""`--dry-run`: what the judges of an evaluation would take."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from povid_jax.eval import answers, judge
from povid_jax.eval.answers import Matched
from povid_jax.eval.protocol import Benchmark, Options

# stands for an answer that is not there yet
_TYPICAL = "A sentence of a common length about the picture. " * 6


def run(
  args: argparse.Namespace,
  chosen: Sequence[Benchmark],
  folders: Mapping[str, Path],
  options: Mapping[str, Options],
) -> int:
  """Prints an estimate per benchmark; asks neither a checkpoint nor a judge."""
  for benchmark in chosen:
    name = benchmark.name
    if not benchmark.judged:
      print(f"{name}: needs no judge")
      continue
    matched = _matched(args, benchmark, folders[name], options[name])
    assert benchmark.score is not None  # it is judged
    try:
      benchmark.score(
        folders[name], matched.questions, matched.answers, options[name]
      )
    except judge.DryRun as estimate:
      print(f"{name}: {estimate}")
  return 0


def _matched(
  args: argparse.Namespace, benchmark: Benchmark, folder: Path, options: Options
) -> Matched:
  assert benchmark.questions is not None  # it is judged
  questions = benchmark.questions(folder, options)
  if args.answers is None:
    return Matched(questions, [_TYPICAL] * len(questions))
  return answers.match(
    questions,
    answers.read(args.answers, benchmark),
    benchmark,
    args.missing,
    ignore_unknown=options.limit is not None,
  )
