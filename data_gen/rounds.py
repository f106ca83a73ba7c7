r"""Several rounds of own answers: sample, write, train, and repeat.

  python -m data_gen rounds --rounds=3 --checkpoint=runs/sft --out=runs/rounds \
    --config=configs/quickstart.py:own_answers --image-dir=images -- \
    --input=train.json --annotations=instances_train.json

Only ordinary commands are run, each printed before it starts; what stands
after `--` goes to `data_gen sample`. Round R leaves OUT/round-R/pairs.jsonl,
records and run, and round R + 1 samples from that run. Interrupted anywhere,
the same command continues; finished steps are passed over.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from povid_jax import bounds, files
from povid_jax.data.picture import add_follow_links
from povid_jax.errors import UserError
from povid_jax.files import atomic_write, check_writable

_OURS = ("--checkpoint", "--out", "--seed", "--image-dir", "--follow-links")


class Command(NamedTuple):
  """One command, its output, and the name under which it is recorded as
  done.
  """

  name: str
  command: tuple[str, ...]
  leaves: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add(
    "--rounds",
    type=bounds.whole(1, 1000),
    default=3,
    metavar="K",
    help="default %(default)s",
  )
  add(
    "--checkpoint",
    required=True,
    help="model folder or RUN from which the first round samples",
  )
  add(
    "--config", required=True, help="config file for the training of each round"
  )
  add("--out", type=Path, required=True, metavar="DIR")
  add("--image-dir", required=True, help="folder of the pictures")
  add_follow_links(parser)
  add(
    "--seed",
    type=bounds.SEED,
    default=0,
    help="seed of round 1; each later round adds 1",
  )
  add("--train", action="append", default=[], metavar="FLAG", help=(
    "a flag for povid_jax.train, e.g. --train=--config.lr=1e-5; may be repeated"
  ))  # fmt: skip
  add(
    "sample",
    nargs="*",
    metavar="FLAG",
    help="after --: flags for data_gen sample",
  )


def steps(args: argparse.Namespace) -> Iterator[Command]:
  """All commands, in order."""
  checkpoint = args.checkpoint
  for number in range(1, args.rounds + 1):
    folder = args.out / f"round-{number}"
    pairs, records = folder / "pairs.jsonl", folder / "records"
    seed = args.seed + number - 1
    yield Command(
      f"sample-{number}",
      (
        *("-m", "data_gen", "sample", f"--checkpoint={checkpoint}"),
        *(f"--out={pairs}", f"--image-dir={args.image_dir}", f"--seed={seed}"),
        *args.sample,
      ),
      pairs,
    )
    yield Command(
      f"write-{number}",
      (
        *("-m", "data_gen", "write", f"--pairs={pairs}", f"--out={records}"),
        *(f"--image-dir={args.image_dir}", f"--seed={seed}"),
      ),
      records / "dataset_info.json",
    )
    run = folder / "run"
    yield Command(
      f"train-{number}",
      (
        *("-m", "povid_jax.train", f"--config={args.config}"),
        *(f"--workdir={run}", f"--config.init={checkpoint}"),
        *(f"--config.data.train={records}", f"--config.seed={seed}"),
        *args.train,
      ),
      run / "checkpoints",
    )
    checkpoint = run


def _check(args: argparse.Namespace) -> None:
  for flag in args.sample:
    if flag.partition("=")[0] in _OURS:
      raise UserError(
        f"{flag}: the command rounds sets this flag of sample itself; give it "
        "before the --"
      )


def _note(args: argparse.Namespace) -> dict[str, list[str]]:
  """Steps that are done, by name; kept in OUT/rounds.json."""
  path = args.out / "rounds.json"
  check_writable(path)
  if not path.exists():
    return {}
  try:
    return dict(files.load_json(path))
  except (UserError, ValueError, TypeError) as error:
    raise UserError(f"{path} is damaged; choose another --out") from error


def main(args: argparse.Namespace) -> int:
  _check(args)
  done = _note(args)
  for step in steps(args):
    shown = "python " + shlex.join(step.command)
    earlier = done.get(step.name)
    if earlier is not None and earlier != list(step.command):
      raise UserError(
        f"{args.out}: {step.name} was done with other flags "
        f"({shlex.join(earlier)}); choose another --out"
      )
    # a write that ended just before a kill left its folder and no note
    if earlier is None and not (
      step.name.startswith("write") and step.leaves.exists()
    ):
      print(f"\n{step.name}\n  $ {shown}", flush=True)
      code = _run(step.command)
      if code:
        print(
          f"{step.name} failed with exit code {code} (its error is above); "
          "run the same command again to continue"
        )
        return code
    if not step.leaves.exists():
      raise UserError(
        f"{step.name} is recorded as done, but {step.leaves} is missing; put "
        "it back, or choose another --out"
      )
    done[step.name] = list(step.command)
    with atomic_write(args.out / "rounds.json") as file:
      json.dump(done, file, indent=1)
  last = args.out / f"round-{args.rounds}" / "run"
  print(f"\n{args.rounds} rounds: {last}")
  return 0


def _run(command: Sequence[str]) -> int:
  return subprocess.run([sys.executable, *command]).returncode
