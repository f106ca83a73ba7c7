"""Makes one self-contained HTML page from what runs left on disk.

  python -m povid_jax.report runs/quickstart
  python -m povid_jax.report RUN --out page.html
  python -m povid_jax.report RUN_SEED_0 RUN_SEED_1 RUN_SEED_2

RUN is one training run (a folder with metrics/train.jsonl) or a folder of them.
What is found in it is shown, the rest is left out:

  <stage>/metrics/train.jsonl, <stage>/config.json    training curves, configs
  eval/<stage>/<split>/results.json, answers.jsonl,   scores with intervals,
    verdicts.jsonl, counts.jsonl                      captions side by side
  results/<name>/results.json near RUN                the same, of this RUN and
                                                      the model it began with
  summary.json                                        scores, seed, seconds
  *pairs*.json[l]                                     preference pairs
  commands.jsonl ({"command", "title", "seconds"})    exact commands

Of several runs with evaluations the first is shown in full, and a table gives
the means over all of them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from povid_jax import bounds, errors, folders
from povid_jax.data.picture import add_follow_links
from povid_jax.files import atomic_write
from povid_jax.report.load import load
from povid_jax.report.page import build


def main(argv: Sequence[str] | None = None) -> int:
  """The command; prints the page's path."""
  parser = argparse.ArgumentParser(
    prog="povid_jax.report",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("runs", nargs="+", type=Path, metavar="RUN", help="run directory")
  add("--out", type=Path, help="page to write (default: RUN/report.html)")
  add("--pairs", type=Path, help="preference JSON (default: found in RUN)")
  add(
    "--image-dir",
    type=Path,
    action="append",
    default=[],
    help="folder of the pictures, if not in RUN; may be repeated",
  )
  add_follow_links(parser)
  add(
    "--scores",
    type=Path,
    action="append",
    default=[],
    metavar="DIR",
    help="an --out folder of povid_jax.eval; may be repeated (default: those "
    "in results/ that scored this run or its init)",
  )
  add(
    "--examples",
    type=bounds.whole(),
    default=20,
    help="pictures with captions (20)",
  )
  add(
    "--show-pairs", type=bounds.whole(), default=8, help="preference pairs (8)"
  )
  add(
    "--seed",
    type=bounds.SEED,
    default=0,
    help="seed of the random choice of examples (0)",
  )
  args = parser.parse_args(argv)
  folders.refuse_remote(vars(args))
  run = load(
    args.runs, pairs=args.pairs, image_dirs=args.image_dir, scores=args.scores
  )
  out = args.out or args.runs[0] / "report.html"
  page = build(
    run, examples=args.examples, pairs=args.show_pairs, seed=args.seed
  )
  with atomic_write(out) as file:
    file.write(page)
  print(f"{out} ({len(page.encode()) / 1e3:,.0f} kB)")
  return 0


def command() -> None:
  """The entry point of the installed script."""
  errors.run(main)


if __name__ == "__main__":
  command()
