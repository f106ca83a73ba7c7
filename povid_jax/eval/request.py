"""The typed request for one evaluation.

The command line makes a request from its flags, training from its config; both
give it to `run.evaluate`.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from povid_jax.eval import flags
from povid_jax.eval.protocol import Benchmark, Options


@dataclass(frozen=True)
class Request:
  """The benchmarks, the model or answers, the files, and the output folder.

  Attributes:
    benchmarks: in the order in which they are asked.
    out: folder of the results.
    options: benchmark name -> its options.
    decoding: benchmark name -> keywords of `answering.Decoding`.
    data: holds <benchmark>/ with the official files.
    checkpoint: the model that answers (RUN[@STEP] or a model folder); of a
      model in memory the name that the results keep.
    answers: file or folder with answers that are scored instead.
    answer_field: where an answer's row holds the model's words; None: under
      one of the usual names.
    pairs: held-out pairs of the preference benchmark.
    missing: what a question without an answer means; None: the benchmark's
      own rule.
    overwrite: whether answers of other settings in `out` are dropped.
    dtype: of the weights that are loaded; None: by the device.
    resamples: of the bootstrap.
    seed: of sampling, of the choice of pictures and of the bootstrap.
    dry_run: print the cost of the judges, and send no request.
  """

  benchmarks: tuple[Benchmark, ...]
  out: Path
  options: Mapping[str, Options]
  decoding: Mapping[str, Mapping[str, Any]]
  data: Path | None = None
  checkpoint: str | None = None
  answers: Path | None = None
  answer_field: str | None = None
  pairs: Path | None = None
  missing: str | None = None
  overwrite: bool = False
  dtype: str | None = None
  resamples: int = 1000
  seed: int = 0
  dry_run: bool = False


def from_args(args: argparse.Namespace) -> Request:
  """The request of a command line.

  Raises:
    UserError: a benchmark is unknown, or a value is not valid.
  """
  chosen = flags.benchmarks(args.benchmarks)
  return Request(
    benchmarks=tuple(chosen),
    out=args.out,
    options={b.name: flags.options(args, b) for b in chosen},
    decoding={b.name: flags.decoding(args, b) for b in chosen},
    data=args.data,
    checkpoint=args.checkpoint,
    answers=args.answers,
    answer_field=args.answer_field,
    pairs=args.pairs,
    missing=args.missing,
    overwrite=args.overwrite,
    dtype=args.dtype,
    resamples=args.resamples,
    seed=args.seed,
    dry_run=args.dry_run,
  )


def of_model(
  benchmarks: str,
  checkpoint: str,
  data: Path,
  out: Path,
  *,
  images: Path | None = None,
  limit: int | None = None,
  judge: str | None = None,
  judge_base_url: str | None = None,
) -> Request:
  """The request to ask one model; all else has the command line's defaults.

  Args:
    benchmarks: names, comma-separated.
    checkpoint: name of the model.
    images: folder of the pictures; None: the benchmark's own.
    limit: questions per benchmark; None: all.
    judge: the model that judges the answers of judged benchmarks.
    judge_base_url: its server; None: OpenAI's.
  """
  parser = argparse.ArgumentParser()
  flags.add(parser, required=False)
  given = argparse.Namespace(
    benchmarks=benchmarks,
    checkpoint=checkpoint,
    data=data,
    out=out,
    images=images,
    limit=[] if limit is None else [str(limit)],
    judge_model=judge,
    judge_base_url=judge_base_url,
    overwrite=True,
  )
  return from_args(parser.parse_args([], given))
