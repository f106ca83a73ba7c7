"""python -m data_gen COMMAND: preference data, from pictures to TFRecords."""

import argparse
import importlib
import io
import sys
from collections.abc import Sequence

from data_gen import injectors
from povid_jax.errors import run
from povid_jax.folders import refuse_remote

# Each name is a module of this package, imported only when it is called, so
# that one command never pays for (or needs) the libraries of another.
COMMANDS = {
  "scenes": "draw the toy world: pictures, captions, questions, annotations",
  "tokenizer": "train a small tokenizer for the toy world on its captions",
  "inject": "make rejected answers from correct ones (by rules or an LLM)",
  "sample": "make pairs from the model's own answers, judged by a verifier",
  "rounds": "repeat sample, write and train, each round from the last model",
  "merge": "join the files that shards of `sample` wrote",
  "write": "write samples and pictures as TFRecords for training",
  "sample-noisy": "make rejected answers with a checkpoint on noisy pictures",
  "export": "write pairs in the formats of other trainers: TRL, POVID, LLaVA",
  "inspect": "print counts and histograms, and make a page of pairs",
}

# flags that are not paths, or whose remote paths `povid_jax.data.picture` can
# open
_ADDRESSES = (
  "base_url",
  "judge_base_url",
  "prompt",
  "verify_command",
  "image_dir",
  "pipeline_options",
)
_BY_BEAM = ("pairs", "out")


def usage() -> str:
  width = max(map(len, COMMANDS))
  rows = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
  return "\n".join(
    [
      "usage: python -m data_gen COMMAND [options]",
      "",
      "commands:",
      *rows,
      "",
      "`python -m data_gen COMMAND --help` prints the flags of one command.",
    ]
  )


def main(argv: Sequence[str] | None = None) -> int:
  argv = list(sys.argv[1:] if argv is None else argv)
  if not argv or argv[0] in ("-h", "--help"):
    print(usage())
    return 0 if argv else 2
  name, rest = argv[0], argv[1:]
  if name not in COMMANDS:
    print(usage(), file=sys.stderr)
    print(f"\nerror: no command {name!r}", file=sys.stderr)
    return 2
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="replace")  # terminals that are not UTF-8
  if injectors.is_command(name):
    add_arguments, run_command, text = _of_injector(name)
  else:
    module = importlib.import_module(f"data_gen.{name.replace('-', '_')}")
    add_arguments, run_command = module.add_arguments, module.main
    text = module.__doc__
  parser = argparse.ArgumentParser(
    prog=f"python -m data_gen {name}",
    description=text,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add_arguments(parser)
  args = parser.parse_args(rest)
  on_beam = getattr(args, "runner", "local") != "local"
  refuse_remote(vars(args), _ADDRESSES + (_BY_BEAM if on_beam else ()))
  return run_command(args)


def _of_injector(name: str) -> tuple:
  """(add_arguments, main, description) of an injector that is a command."""
  from data_gen import inject_flags
  from data_gen.drive import drive

  kind = injectors.find(name)

  def add_arguments(parser: argparse.ArgumentParser) -> None:
    inject_flags.add_common(parser)
    if kind.gated:
      inject_flags.add_gates(parser)
    kind.add_flags(parser)

  text = sys.modules[kind.__module__].__doc__
  return add_arguments, lambda args: drive(args, kind), text


def command() -> None:
  """The entry point of the installed script."""
  run(main)


if __name__ == "__main__":
  command()
