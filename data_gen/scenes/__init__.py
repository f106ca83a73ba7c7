"""A small world to learn from, drawn by Pillow.

  python -m data_gen scenes --out=scenes

Pictures of everyday things in five places, with COCO annotations and
LLaVA-Instruct conversations. In `train`, `val` and `test` the place tells which
kinds to expect; in `pretrain` and `test_balanced` it does not. The same command
gives the same bytes.
"""

import argparse
import os

from data_gen.scenes.draw import Camera
from data_gen.scenes.world import Mix, balanced, crowded
from data_gen.scenes.write import Split, write_world
from povid_jax import bounds

COUNTS = {
  "pretrain": 16000,
  "train": 10000,
  "val": 500,
  "val_balanced": 500,
  "test": 1000,
  "test_balanced": 1000,
}
MIXES = {
  "pretrain": crowded(),
  "val_balanced": balanced(),
  "test_balanced": balanced(),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `data_gen scenes`."""
  parser.add_argument("--out", required=True, help="folder to write")
  parser.add_argument(
    "--seed",
    type=bounds.SEED,
    default=0,
    help="seed of the random choices, a whole number",
  )
  for name, count in COUNTS.items():
    parser.add_argument(
      f"--{name.replace('_', '-')}",
      type=bounds.whole(),
      default=count,
      metavar="N",
      help=f"pictures in the split {name} (default {count})",
    )
  parser.add_argument(
    "--usual",
    type=bounds.SHARE,
    default=Mix.usual,
    help="how often an object is the kind of its look-alike pair that one "
    "expects in the place (0.5: the place gives no hint; default "
    "%(default)s)",
  )
  parser.add_argument(
    "--careless",
    type=bounds.SHARE,
    default=0.8,
    help="how often an answer of train and val mentions the usual companion "
    "of the place where it is absent, as a writer who did not look closely "
    "would (default %(default)s)",
  )
  parser.add_argument(
    "--grain",
    type=bounds.SHARE,
    default=Camera.grain,
    help="pixel noise of the camera, 0..1 (default %(default)s)",
  )
  parser.add_argument(
    "--fade",
    type=bounds.SHARE,
    default=Camera.fade[0],
    help="opacity of the faintest objects, 0..1 (default %(default)s)",
  )
  parser.add_argument(
    "--workers",
    type=bounds.WORKERS,
    default=os.cpu_count() or 1,
    help="processes",
  )


def main(args: argparse.Namespace) -> int:
  """Draws the world that the flags ask for."""
  natural = Mix(usual=args.usual)
  splits = []
  for name in COUNTS:
    count = getattr(args, name)
    careless = args.careless if name in ("train", "val") else 0.0
    splits.append(Split(name, count, MIXES.get(name, natural), careless))
  camera = Camera(grain=args.grain, fade=(args.fade, 1.0))
  write_world(args.out, args.seed, splits, camera, args.workers)
  print(f"{sum(split.count for split in splits)} pictures in {args.out}")
  return 0
