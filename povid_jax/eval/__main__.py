"""Evaluates a checkpoint, or given answers, on benchmarks.

  python -m povid_jax.eval --checkpoint=RUN --benchmarks=chair,pope \\
    --data=DATA --out=OUT
  python -m povid_jax.eval --answers=answers.jsonl --benchmarks=pope \\
    --data=DATA --out=OUT
  python -m povid_jax.eval compare OUT_A OUT_B
  python -m povid_jax.eval matched-recall OUT_A OUT_B
  python -m povid_jax.eval build-pope --instances=instances_val2014.json \\
    --images=500 --out=DATA/pope

A killed run continues with the same command and ends with the same results.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from povid_jax import bounds, errors, folders
from povid_jax.eval import compare, flags, matched_recall, request, run
from povid_jax.eval.benchmarks import coco, pope_build
from povid_jax.files import atomic_write


def main(argv: Sequence[str] | None = None) -> int:
  """The command; its first word may be that of a part, see the code."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if argv[:1] == ["compare"]:
    return run_compare(argv[1:])
  if argv[:1] == ["matched-recall"]:
    return matched_recall.run(argv[1:])
  if argv[:1] == ["build-pope"]:
    return run_build_pope(argv[1:])
  parser = argparse.ArgumentParser(
    prog="povid_jax.eval",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  flags.add(parser)
  args = parser.parse_args(argv)
  folders.refuse_remote(vars(args), but=("judge_base_url", "prompt"))
  asked = request.from_args(args)
  if asked.dry_run:
    return run.estimate(asked)
  run.show(run.evaluate(asked), asked.out)
  return 0


def run_compare(argv: Sequence[str]) -> int:
  """`compare A B`: is B different from A, and where?"""
  parser = argparse.ArgumentParser(
    prog="povid_jax.eval compare",
    description="Compares two --out folders item by item: differences with "
    "paired bootstrap intervals, McNemar's test, and the items that changed.",
  )
  parser.add_argument("a", type=Path, metavar="A", help="an --out folder")
  parser.add_argument("b", type=Path, metavar="B", help="an --out folder")
  parser.add_argument(
    "--resamples", type=bounds.RESAMPLES, default=10_000, help="10000"
  )
  parser.add_argument(
    "--show",
    type=bounds.whole(),
    default=10,
    metavar="N",
    help="number of changed items to list",
  )
  parser.add_argument(
    "--json", type=Path, metavar="FILE", help="file for the comparison, JSON"
  )
  args = parser.parse_args(argv)
  folders.refuse_remote(vars(args))
  found = compare.compare(args.a, args.b, args.resamples)
  print(compare.report(found, str(args.a), str(args.b), args.show))
  if args.json is not None:
    with atomic_write(args.json) as file:
      file.write(compare.as_json(found) + "\n")
  return 0


def run_build_pope(argv: Sequence[str]) -> int:
  """`build-pope`: POPE questions from COCO-format annotations."""
  parser = argparse.ArgumentParser(
    prog="povid_jax.eval build-pope",
    description="Builds POPE's random, popular and adversarial questions from "
    "COCO-format instance annotations.",
  )
  parser.add_argument(
    "--instances", type=Path, required=True, nargs="+", metavar="FILE"
  )
  parser.add_argument(
    "--statistics",
    type=Path,
    nargs="+",
    metavar="FILE",
    help="instances from which frequent and co-occurring objects are counted, "
    "such as those of the training split (default: --instances)",
  )
  parser.add_argument("--out", type=Path, required=True, metavar="DIR")
  parser.add_argument(
    "--num-images",
    "--images",
    dest="images",
    type=bounds.whole(1),
    default=500,
    metavar="N",
    help="pictures (500)",
  )
  parser.add_argument(
    "--per-image",
    type=bounds.whole(2, 1000),
    default=6,
    metavar="K",
    help="questions, even (6)",
  )
  parser.add_argument("--seed", type=bounds.SEED, default=0)
  args = parser.parse_args(argv)
  folders.refuse_remote(vars(args))
  instances = coco.read_instances(args.instances)
  usual = coco.read_instances(args.statistics or args.instances)
  names = dict.fromkeys([*instances.categories, *usual.categories])
  stats = pope_build.statistics(usual.objects.values(), list(names))
  rows = pope_build.build(
    instances, stats, args.images, args.per_image, args.seed
  )
  pope_build.write(rows, args.out)
  count = sum(map(len, rows.values()))
  print(f"{count} questions about {args.images} pictures in {args.out}")
  return 0


def command() -> None:
  """The entry point of the installed script."""
  errors.run(main)


if __name__ == "__main__":
  command()
