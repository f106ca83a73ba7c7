"""Joins the files that shards of `data_gen sample` wrote.

  python -m data_gen merge part-0.jsonl part-1.jsonl --out pairs.jsonl

Pairs are put in the order of their ids, so that the result does not depend on
the number of shards. The same id twice is an error, unless the pairs are equal.
A pattern (part-*.jsonl) may bring journals and rejected items of these files
along: they are passed over. Pictures that came out of a table lie in a folder
beside each file; they are copied into one beside --out.
"""

import argparse
from pathlib import Path

from data_gen.job import Paths
from povid_jax.data.pairs import (
  Sample,
  in_folder,
  pictures_folder,
  to_json,
  write_samples,
)
from povid_jax.data.samples import read_samples
from povid_jax.errors import UserError
from povid_jax.files import check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("files", nargs="+", metavar="FILE", help=".json, .jsonl")
  parser.add_argument("--out", required=True, help="file to write")


def main(args: argparse.Namespace) -> int:
  out = Path(args.out)
  check_writable(out)
  files = _of_pairs([Path(name) for name in args.files])
  if out.resolve() in {path.resolve() for path in files}:
    raise UserError(f"--out {out} is one of the inputs; choose another file")
  found: dict[str, Sample] = {}
  for name in files:
    for sample in read_samples(name):
      other = found.setdefault(sample.id, sample)
      if to_json(other) != to_json(sample):
        raise UserError(
          f"{name}: id {sample.id!r} is also in another file, with another "
          "pair; give the shards of one run, which never share an id"
        )
  pairs = [found[key] for key in sorted(found)]
  if any(picture.folder for pair in pairs for picture in pair.images):
    pairs = [in_folder(pair, pictures_folder(out)) for pair in pairs]
  write_samples(out, pairs)
  print(f"{len(found):,} pairs of {len(files)} files: {out}")
  return 0


def _of_pairs(files: list[Path]) -> list[Path]:
  """The files without those that a run keeps beside one of them."""
  beside = set()
  for path in files:
    kept = Paths(path)
    beside |= {kept.journal, kept.rejected, kept.skipped}
  return [path for path in files if path not in beside]
