"""`--dry-run`: the estimated cost of the judges of an evaluation."""

from collections.abc import Mapping
from pathlib import Path

from povid_jax.eval import answers, judge, needs
from povid_jax.eval.answers import Matched
from povid_jax.eval.protocol import Benchmark
from povid_jax.eval.request import Request

# stands for an answer that is not there yet
_TYPICAL = "A sentence of a common length about the picture. " * 6


def run(request: Request, folders: Mapping[str, Path]) -> int:
  """Prints an estimate per benchmark; uses neither a checkpoint nor a judge."""
  for benchmark in request.benchmarks:
    name, options = benchmark.name, request.options[benchmark.name]
    if not benchmark.judged:
      print(f"{name}: needs no judge")
      continue
    matched = _matched(request, benchmark, folders[name])
    assert benchmark.score is not None  # it is judged
    try:
      benchmark.score(
        folders[name], matched.questions, matched.answers, options
      )
    except judge.DryRun as estimate:
      print(f"{name}: {estimate}")
  return 0


def _matched(request: Request, benchmark: Benchmark, folder: Path) -> Matched:
  options = request.options[benchmark.name]
  questions = needs.questions(benchmark, folder, options)
  if request.answers is None:
    return Matched(questions, [_TYPICAL] * len(questions))
  return answers.match(
    questions,
    answers.read(request.answers, benchmark, request.answer_field),
    benchmark,
    request.missing,
    ignore_unknown=options.limit is not None,
  )
