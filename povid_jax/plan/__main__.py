"""Will this config fit that hardware? The real step is compiled for it.

  python -m povid_jax.plan --config=configs/povid_stage2.py:7b \\
    --topology=v5e:4x4 --config.batch_size=16
  python -m povid_jax.plan --config=... --topology=gpu:8x80GB --json plan.json

No weights, no data and no accelerator are needed. TPU slices (v4, v5e, v5p,
v6e) are compiled for by libtpu (pip install "povid_jax[tpu]"), cpu:N by virtual
devices; gpu:NxCARD and gpu:NxMGB are estimates from the dimensions and data
sheets, and say so.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from povid_jax import bounds, errors, files, folders
from povid_jax.errors import UserError
from povid_jax.plan.topology import Topology, parse


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  # below, so that the virtual devices of cpu:N are asked for before JAX starts
  from povid_jax import config as config_lib

  arguments = list(sys.argv[1:] if argv is None else argv)
  overrides, rest = config_lib.take_overrides(arguments)
  args = _parser().parse_args(rest)
  folders.refuse_remote(vars(args))
  topology = parse(args.topology)
  _check(args)
  _before_jax(topology)
  from povid_jax.plan import planning, suggest, text
  from povid_jax.plan.abstract import Shape

  config = config_lib.load(args.config, overrides)
  model, described = planning.dimensions(args.preset, config.init, args.config)
  image = _size(args.image)
  shape = Shape(1, args.branch, args.images, image, args.rejected)
  # room for a question of 128 tokens
  prefix = args.prefix or -(-(shape.room(described).tokens + 128) // 64) * 64
  shape = shape._replace(prefix=prefix)
  plan = planning.make(config, described, topology, shape)
  if not args.no_suggestions:
    plan = suggest.complete(plan, config, described, topology, shape)
  print(f"{model}, on {topology.name}")
  print(text.text(plan, args.mfu, not args.no_suggestions))
  for note in text.advice(config):
    print(f"note: {note}")
  if args.json:
    out = {
      "config": args.config,
      "model": model,
      "topology": args.topology,
      **dataclasses.asdict(plan),
      **text.rates(plan, args.mfu),
    }
    with files.atomic_write(Path(args.json)) as file:
      json.dump(out, file, indent=2)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="povid_jax.plan",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add(
    "--config",
    required=True,
    metavar="FILE[:VARIANT]",
    help="config file of the run: FILE[:VARIANT]",
  )
  add(
    "--topology",
    required=True,
    help="v5e:4x4, v5p:2x2x2, v6e:2x4, gpu:8xH100, gpu:8x80GB or cpu:8",
  )
  add(
    "--preset",
    default="",
    help="name of the model's dimensions, llava-1.5-7b for example (default: "
    "those of config.init, or of a variant such as 7b)",
  )
  add("--prefix", type=bounds.TOKENS,
      help="P, tokens of images and question (default: those of the images "
        "and 128)")  # fmt: skip
  add(
    "--branch", type=bounds.TOKENS, default=256, help="C, tokens of an answer"
  )
  add("--rejected", type=bounds.whole(least=1, most=64), default=1, metavar="N",
      help="rejected answers of a row: the most that a row of your data has "
      "(1)")  # fmt: skip
  add("--num-images", "--images", dest="images", type=bounds.whole(most=1024),
      default=1,
      help="pictures per pair")  # fmt: skip
  add("--image", default="640x480", metavar="WxH",
      help="size of a picture in pixels, for models that cut pictures into "
      "tiles (640x480, COCO's)")  # fmt: skip
  add(
    "--mfu",
    type=bounds.number(above=0, most=1),
    default=0.4,
    help="expected share of the peak FLOP/s, used for pairs/s (0.4)",
  )
  add("--json", metavar="FILE", help="file to which the plan is also written")
  add(
    "--no-suggestions",
    action="store_true",
    help="do not search for settings that fit",
  )
  return parser


def _size(text: str) -> tuple[int, int]:
  """640x480 as numbers."""
  found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
  if found is None:
    raise UserError(f"--image={text}: want WIDTHxHEIGHT in pixels, 640x480 say")
  return int(found[1]), int(found[2])


def _check(args: argparse.Namespace) -> None:
  """Raises UserError for what would fail only after minutes of compiling."""
  _size(args.image)
  if args.json:
    files.check_writable(args.json)


def _before_jax(topology: Topology) -> None:
  """Virtual devices can only be asked for before JAX has started."""
  # the plan itself needs no accelerator, and must not take one
  os.environ["JAX_PLATFORMS"] = "cpu"
  if topology.platform == "cpu":
    flag = f"--xla_force_host_platform_device_count={topology.devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"


def command() -> None:
  """The entry point of the installed script."""
  errors.run(main)


if __name__ == "__main__":
  command()
