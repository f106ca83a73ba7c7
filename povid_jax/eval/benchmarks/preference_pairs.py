"""The held-out pairs of the preference benchmark: records or any format."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from povid_jax.data import pairs, samples
from povid_jax.data.records import Record, Records, RecordSource, Rejected
from povid_jax.errors import UserError
from povid_jax.eval import needs
from povid_jax.eval.protocol import Options

SPLITS = ("validation", "val", "test", "train")  # in order of choice
_NOT_PAIRS = ("features.json", "dataset_info.json")


def open_pairs(data: Path, options: Options) -> list[Record]:
  """Held-out pairs: --pairs, else TFRecords or JSON in the data folder.

  Raises:
    UserError: there are none, or they have no rejected answers.
  """
  path = options.extra.get("pairs") or data
  source: Records
  if _holds_records(path):
    source = RecordSource(path, options.split or _split(path))
  else:
    source = _from_samples(_samples_path(path), options)
  read = (source[i] for i in range(len(source))[: options.limit])
  kept = [pair for record in read for pair in _each_pair(record)]
  without = [record.id for record in kept if not record.rejected]
  if without or not kept:
    raise UserError(
      f"preference: {path}: "
      + (f"{without[0]!r} has no rejected answer" if kept else "no pairs")
    )
  return kept


def _holds_records(path: Path) -> bool:
  return path.is_dir() and any(path.glob("*.tfrecord-*"))


def pair_files(data: Path, options: Options) -> list[Path]:
  """The files that `open_pairs` reads, pictures of JSON apart."""
  path = options.extra.get("pairs") or data
  if not _holds_records(path):
    return samples.container_files(_samples_path(path))
  split = options.split or _split(path)
  return sorted(path.glob(f"*-{split}.tfrecord-*"))


def _split(folder: Path) -> str:
  for split in SPLITS:
    if any(folder.glob(f"*-{split}.tfrecord-*")):
      return split
  raise UserError(
    f"preference: {folder} has none of the splits {', '.join(SPLITS)}; give "
    "another one with --split"
  )


def _samples_path(path: Path) -> Path:
  if path.is_file():
    return path
  if samples.is_tables(path):
    return path
  found = sorted([*path.glob("*.jsonl"), *path.glob("*.json")])
  found = [file for file in found if file.name not in _NOT_PAIRS]
  if len(found) != 1:
    names = ", ".join(file.name for file in found) or "none"
    raise UserError(
      "preference: want TFRecords (`python -m data_gen write`), tables, or "
      f"one .json or .jsonl of pairs in {path}, found {names}; give another "
      "path with --pairs"
    )
  return found[0]


def _from_samples(path: Path, options: Options) -> list[Record]:
  folder = str(needs.image_folder(path.parent, options))
  extra = options.extra
  layout = samples.Layout(folder, extra.get("format"), extra.get("columns"))
  read = samples.iter_samples(path, layout)
  return [_record(sample) for sample in itertools.islice(read, options.limit)]


def _record(sample: pairs.Sample) -> Record:
  try:
    pictures = tuple(picture.read() for picture in sample.images)
  except UserError as error:
    raise UserError(f"id {sample.id!a}: {error}") from error
  return pairs.to_record(sample, pictures)


def _each_pair(record: Record) -> Iterator[Record]:
  """One record for each rejected answer."""
  for one in record.by_chosen():
    for rejected in one.every_rejected or (Rejected(()),):
      yield dataclasses.replace(
        one,
        rejected=rejected.turns,
        rejected_weight=rejected.weight,
        more_rejected=(),
      )
