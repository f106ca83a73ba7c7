"""Checkpoints in and out.

  python -m povid_jax.convert from-torch llava-v1.5-7b base \\
      --vision-tower=clip-vit-large-patch14-336
  python -m povid_jax.convert to-hf run merged
  python -m povid_jax.convert to-llava run llava-merged
  python -m povid_jax.convert to-peft run adapter
  python -m povid_jax.convert init base --preset=tiny --tokenizer=tokenizer
"""

import argparse
from collections.abc import Sequence

from povid_jax import bounds, errors, folders
from povid_jax.convert import made
from povid_jax.convert.incoming import from_torch, init, say
from povid_jax.convert.outgoing import to_hf, to_llava, to_peft
from povid_jax.data.text import TEMPLATES
from povid_jax.models.presets import PRESETS

DTYPES = ("bfloat16", "float16", "float32")


def _common(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--template",
    choices=sorted(TEMPLATES),
    help="conversation template (default: the one that fits the model)",
  )
  parser.add_argument(
    "--image-mode",
    choices=("pad", "resize"),
    help="how pictures become square (default: as in the checkpoint)",
  )
  parser.add_argument(
    "--pinpoints",
    choices=("transformers", "original"),
    help="for models that cut pictures into tiles: whose code reads the list "
    "of canvases, which decides between two that fit equally well "
    "(transformers)",
  )


def _out(parser: argparse.ArgumentParser) -> None:
  what = parser.add_mutually_exclusive_group()
  what.add_argument(
    "--base-only",
    action="store_true",
    help="the checkpoint that the run started from; without it, the training "
    "of that checkpoint is merged into the base",
  )
  # this is the default now, but older scripts still give the flag
  what.add_argument("--merge", action="store_true", help=argparse.SUPPRESS)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m povid_jax.convert",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest="command", required=True)

  one = commands.add_parser(
    "from-torch", help="a PyTorch LLaVA -> model folder"
  )
  one.add_argument("src", help="original (liuhaotian) or llava-hf folder")
  one.add_argument("dst", help="model folder to write")
  one.add_argument(
    "--vision-tower",
    help="CLIP folder, if an original checkpoint does not contain its tower",
  )
  one.add_argument(
    "--dtype",
    choices=(*DTYPES, "keep"),
    default="bfloat16",
    help="dtype of the weights",
  )
  one.add_argument("--adapter", help="PEFT folder to merge into the weights")
  one.add_argument("--tokenizer", help="folder of the tokenizer (default: SRC)")
  _common(one)
  one.set_defaults(run=from_torch)

  one = commands.add_parser("to-hf", help="model folder or run -> transformers")
  one.add_argument("src", help="model folder, RUN or RUN@STEP")
  one.add_argument("dst", help="llava-hf folder to write")
  _out(one)
  one.set_defaults(run=to_hf)

  one = commands.add_parser(
    "to-llava", help="model folder or run -> LLaVA's own layout"
  )
  one.add_argument("src", help="model folder, RUN or RUN@STEP")
  one.add_argument("dst", help="folder to write; its name must contain 'llava'")
  one.add_argument(
    "--vision-tower",
    help="mm_vision_tower to write (default: the published tower of these "
    "sizes, or a folder beside the weights)",
  )
  _out(one)
  one.set_defaults(run=to_llava)

  one = commands.add_parser("to-peft", help="adapter of a run -> PEFT")
  one.add_argument("src", help="RUN or RUN@STEP")
  one.add_argument("dst", help="PEFT folder to write")
  one.add_argument(
    "--layout",
    choices=("llava-hf", "original"),
    default="llava-hf",
    help="module names of transformers (4.52 and later) or of LLaVA's code",
  )
  one.add_argument("--base", help="base_model_name_or_path to write")
  one.add_argument(
    "--vision-tower", help="mm_vision_tower of --layout=original's config.json"
  )
  one.set_defaults(run=to_peft)

  one = commands.add_parser("init", help="random weights of a preset")
  one.add_argument("dst", help="model folder to write")
  one.add_argument("--preset", choices=sorted(PRESETS), required=True)
  one.add_argument("--tokenizer", required=True, help="its folder")
  one.add_argument("--seed", type=bounds.SEED, default=0)
  one.add_argument("--dtype", choices=DTYPES, default="float32")
  _common(one)
  one.set_defaults(run=init)
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  args = _parser().parse_args(argv)
  folders.refuse_remote(vars(args))
  args.made_by = made.digest(args)
  if made.is_there(args):
    say(
      f"{args.dst}: exists already, written by this command from the same files"
    )
    return 0
  args.run(args)
  return 0


def command() -> None:
  """The entry point of the installed script."""
  errors.run(main)
