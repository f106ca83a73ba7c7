"""Marks each output with a hash of the command and its input files.

If a finished command is run again, it finds its mark and reports that the
output is complete, instead of the error "exists already".
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from povid_jax import files
from povid_jax.checkpoints import restore

NAME = ".made_by.json"
_FOLDERS = ("src", "vision_tower", "adapter", "tokenizer")


def _facts(path: Path) -> Iterator[str]:
  """Names, sizes and times of the files that a folder consists of."""
  for file in sorted(path.rglob("*")) if path.is_dir() else []:
    if file.is_file():
      facts = file.stat()
      name = file.relative_to(path).as_posix()
      yield f"{name}:{facts.st_size}:{facts.st_mtime_ns}"


def digest(args: argparse.Namespace) -> str:
  """A hash of the command, its flags and the files that it reads.

  Not of paths: the mark may be published with the output.
  """
  flags = {
    name: value
    for name, value in vars(args).items()
    if name not in (*_FOLDERS, "dst", "run") and not callable(value)
  }
  lines = [json.dumps(flags, sort_keys=True, default=str)]
  for name in _FOLDERS:
    value = getattr(args, name, None)
    if not value:
      continue
    path, step = restore.split_spec(str(value))
    lines += [name, str(Path(path).resolve()), str(step)]
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    lines += _facts(folder)
  return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def is_there(args: argparse.Namespace) -> bool:
  """Whether the output of this same command exists already."""
  try:
    held = files.parse_json((Path(args.dst) / NAME).read_bytes())
  except (OSError, ValueError):
    return False
  return isinstance(held, dict) and held.get("made_by") == args.made_by


def mark(args: argparse.Namespace) -> dict[str, str]:
  """Name and text of the mark; `args.made_by` is the `digest` of the command.

  It is written before the output has its name: a process that is killed leaves
  no output without it.
  """
  text = json.dumps({"made_by": args.made_by, "command": args.command})
  return {NAME: text}


def leave(args: argparse.Namespace, folder: Path) -> None:
  """Writes the mark into an output that has no name yet."""
  for name, text in mark(args).items():
    (folder / name).write_text(text, encoding="utf-8")
