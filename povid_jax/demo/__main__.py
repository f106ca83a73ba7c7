"""Two checkpoints answer side by side about your own picture, in a browser.

  python -m povid_jax.demo weights/llava-7b runs/stage2
  python -m povid_jax.demo A B --annotations instances_val2014.json

The page is served on this machine only (http://127.0.0.1:7860). Objects that an
answer names and the picture does not show are marked, if the objects of the
picture are known: from annotations, found by the picture's file name, or from
the field "objects in the picture". The first answer takes a minute or two more,
for compiling. Needs pip install 'povid_jax[demo]'.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from povid_jax import bounds, errors, folders
from povid_jax.demo import page
from povid_jax.errors import UserError
from povid_jax.generate import answering
from povid_jax.generate.answering import Decoding


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="povid_jax.demo",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("checkpoints", nargs=2, metavar="A B",
      help="model folders, RUN or RUN@STEP")  # fmt: skip
  add("--annotations", nargs="+", type=Path, default=[], metavar="FILE",
      help="COCO's instances_*.json, and captions_*.json")  # fmt: skip
  add(
    "--port",
    type=bounds.whole(1, 65535),
    default=7860,
    help="port of the page (%(default)s)",
  )
  add("--max-new-tokens", type=bounds.TOKENS, default=256,
      help="longest answer (%(default)s)")  # fmt: skip
  add("--dtype", choices=("float32", "bfloat16"),
      help="default: bfloat16 on accelerators, float32 on CPUs")  # fmt: skip
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  args = _parser().parse_args(sys.argv[1:] if argv is None else argv)
  folders.refuse_remote(vars(args))
  page.library()  # before minutes of reading weights
  how = Decoding(max_new_tokens=args.max_new_tokens, batch_size=1)
  truth = page.Truth(args.annotations)
  policies = [answering.load_policy(c, args.dtype) for c in args.checkpoints]
  served = page.page(args.checkpoints, page.answerer(policies, truth, how))
  try:
    served.launch(server_name="127.0.0.1", server_port=args.port, share=False)
  except OSError as error:
    raise UserError(f"--port={args.port}: {error}") from error
  return 0


def command() -> None:
  """The entry point of the installed script."""
  errors.run(main)


if __name__ == "__main__":
  command()
