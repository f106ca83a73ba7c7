"""The flags of judged benchmarks, and the judge that they describe."""

import argparse
from pathlib import Path

from povid_jax import bounds, llm
from povid_jax.errors import UserError
from povid_jax.eval.judge import Judge


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of judged benchmarks."""
  group = parser.add_argument_group(
    "judged benchmarks (mmhal, mmvet, llava_bench; object_halbench if named)",
    "any OpenAI-compatible server; the key is read from OPENAI_API_KEY",
  )
  add = group.add_argument
  add("--judge-model", metavar="NAME", help="name of the judging model")
  add(
    "--judge-base-url",
    metavar="URL",
    help="address of its server (default: OpenAI's)",
  )
  add(
    "--judge-prompt",
    action="append",
    default=[],
    metavar="[BENCHMARK=]FILE",
    help="judge prompt to use instead: MMHal-Bench's template with four {}, "
    "MM-Vet's table, LLaVA's rule.json; may be repeated",
  )
  add(
    "--judge-runs",
    type=bounds.whole(1, 1000),
    default=1,
    metavar="N",
    help="MM-Vet: judge every answer N times (1; its paper 5)",
  )
  add(
    "--judge-temperature",
    default="official",
    metavar="T",
    help="official (default): the benchmark's own; default: do not send one, "
    "for models that allow no other; or a number",
  )
  add(
    "--judge-max-tokens",
    type=bounds.whole(1),
    metavar="N",
    help="longest reply (default: the benchmark's own; MM-Vet's 3 is too few "
    "for models that think first)",
  )
  add(
    "--judge-batch",
    action="store_true",
    help="use the Batch API, which costs half and takes minutes to hours",
  )
  add(
    "--judge-concurrency",
    type=bounds.CONCURRENCY,
    default=8,
    metavar="N",
    help="default 8",
  )
  add(
    "--max-cost",
    type=bounds.number(),
    metavar="DOLLARS",
    help="stop judging when this is spent; run the same command again to "
    "continue",
  )
  add("--prices", metavar="FILE", help="price table (default: llm/prices.json)")
  add(
    "--dry-run",
    action="store_true",
    help="print the number of judgements, tokens and dollars, and send no "
    "request",
  )


def from_args(args: argparse.Namespace) -> Judge:
  """The judge that the flags describe.

  Raises:
    UserError: a value is not valid.
  """
  if args.judge_temperature not in ("official", "default"):
    try:
      bounds.TEMPERATURE(args.judge_temperature)
    except argparse.ArgumentTypeError as error:
      words = f"--judge-temperature={error}, or official, or default"
      raise UserError(words) from error
  return Judge(
    server=llm.Options(
      model=args.judge_model or "",
      base_url=args.judge_base_url,
      concurrency=args.judge_concurrency,
      prices=args.prices,
    ),
    prompts=dict(_named(value) for value in args.judge_prompt),
    runs=args.judge_runs,
    temperature=args.judge_temperature,
    max_tokens=args.judge_max_tokens,
    batch=args.judge_batch,
    max_cost=args.max_cost,
    dry_run=args.dry_run,
    log=args.out / "judge.jsonl",
  )


def _named(value: str) -> tuple[str, Path]:
  head, equals, rest = value.partition("=")
  known = ("mmhal", "mmvet", "llava_bench", "object_halbench")
  return (head, Path(rest)) if equals and head in known else ("", Path(value))
