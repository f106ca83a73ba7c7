"""Reads preference samples of any known format out of any container.

A container holds rows: a .json list, JSON lines (in .jsonl, or in a .json file
as many projects write them), .csv and .tsv, a table (.parquet, .arrow), a
folder of tables, or what `datasets.save_to_disk` wrote. A format makes samples
of a row: povid_jax/data/formats/, recognised by its keys or named.
"""

import argparse
import collections
import csv
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from povid_jax import files
from povid_jax.data import formats, tables
from povid_jax.data.formats import base
from povid_jax.data.pairs import Sample, pictures_folder
from povid_jax.data.picture import Picture, add_follow_links
from povid_jax.errors import UserError

Rows = Iterator[tuple[str, Callable[[], Any]]]


# --- containers ------------------------------------------------------------


def _line_rows(path: Path) -> Rows:
  for number, line in files.text_lines(path):
    where = f"{path}, line {number}"
    yield where, lambda w=where, text=line: files.decode_json(text, w)


def _is_lines(path: Path) -> bool:
  """Whether a file that begins with an object holds an object per line."""
  lines = files.text_lines(path)
  _, first = next(lines, (0, ""))
  if not first.lstrip().startswith("{") or next(lines, None) is None:
    return False
  try:
    files.parse_json(first)
  except ValueError:
    return False
  return True


def _mapping_rows(path: Path, value: dict[str, Any]) -> Rows:
  """Rows by picture: {image_id: row} or {image_id: [rows]}."""
  for key, held in value.items():
    many = held if isinstance(held, list) else [held]
    for i, row in enumerate(many):
      where = f"{path}, key {key[:60]!a}"
      where += f", index {i}" if isinstance(held, list) else ""
      yield where, lambda k=key, row=row: {"image_id": k, **row}


def _json_rows(path: Path) -> Rows:
  if _is_lines(path):
    yield from _line_rows(path)
    return
  value = files.load_json(path)
  if isinstance(value, dict):
    if formats.recognise(value):
      value = [value]
    elif value and all(_is_rows(held) for held in value.values()):
      yield from _mapping_rows(path, value)
      return
    elif {"images", "annotations"} <= value.keys():
      raise UserError(f"{path}: {formats.refusal(value)}")
  if not isinstance(value, list):
    raise UserError(
      f"{path}: is {base.kind(value)}; want a list of samples "
      "(or name the file .jsonl for one sample per line)"
    )
  for i, row in enumerate(value):
    yield f"{path}, index {i}", lambda row=row: row


def _is_rows(held: object) -> bool:
  many = held if isinstance(held, list) else [held]
  return bool(many) and all(isinstance(row, dict) for row in many)


def _csv_rows(path: Path) -> Rows:
  csv.field_size_limit(1 << 30)
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      mark = "\t" if path.suffix == ".tsv" else ","
      for i, row in enumerate(csv.DictReader(file, delimiter=mark)):
        where = f"{path}, row {i}"
        yield where, lambda r=row, w=where: files.named_cells(r, w)
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path}: not a readable table: {error}") from error


def _table_rows(path: Path) -> Rows:
  for number, row in tables.rows(path):
    yield f"{path}, row {number}", lambda row=row: row


def _split_of(folder: Path, names: Sequence[str]) -> str:
  if len(names) == 1:
    return names[0]
  if "train" in names:
    return "train"
  raise UserError(
    f"{folder}: holds {', '.join(names)}; give one of these folders"
  )


def table_files(folder: Path) -> list[Path]:
  """The tables of a folder, in their order.

  What `save_to_disk` wrote (of several splits: train), or parquet files, as a
  dataset repository has them (of several splits: train).

  Raises:
    UserError: it contains neither; the message lists its content.
  """
  described = folder / "dataset_dict.json"
  if described.is_file():
    splits = files.read_json(described, "datasets.save_to_disk writes it")
    folder = folder / _split_of(folder, list(splits.get("splits") or []))
  state = folder / "state.json"
  if state.is_file():
    held = files.read_json(state, "datasets.save_to_disk writes it")
    names = [part.get("filename") for part in held.get("_data_files") or []]
    found = [folder / str(name) for name in names]
  else:
    found = sorted(folder.rglob("*.parquet"))
    by_split = collections.defaultdict(list)
    for path in found:
      by_split[path.stem.split("-")[0].split("_")[0]].append(path)
    if {"train", "test", "validation", "val"} & by_split.keys():
      found = by_split[_split_of(folder, list(by_split))]
  if not found:
    if any(folder.glob("*.tfrecord-*")):
      raise UserError(
        f"{folder}: holds TFRecords for training; this command needs the "
        "samples that `data_gen write` read to make them"
      )
    raise UserError(
      f"{folder}: is a folder without tables; want a file, a folder of "
      ".parquet files, or a folder of datasets.save_to_disk"
    )
  for path in found:
    if not path.is_file():
      raise UserError(f"{path}: no such file, but {state} lists it")
  return found


def is_tables(path: Path) -> bool:
  """Whether a folder holds tables: parquet, or what save_to_disk wrote."""
  described = (path / "dataset_dict.json", path / "state.json")
  return any(f.is_file() for f in described) or any(path.rglob("*.parquet"))


def container_files(path: str | Path) -> list[Path]:
  """The files that hold the rows of `path`."""
  path = Path(path)
  return table_files(path) if path.is_dir() else [path]


def _rows(path: Path) -> Rows:
  readers = {
    ".jsonl": _line_rows,
    ".ndjson": _line_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
  } | dict.fromkeys(tables.SUFFIXES, _table_rows)
  for file in container_files(path):
    yield from readers.get(file.suffix, _json_rows)(file)


# --- samples ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Layout:
  """How rows are read.

  Attributes:
    image_dir: the folder of the pictures; None: the folder that
      `pairs.write_samples` made beside the file, if any.
    format: a name in `formats.FORMATS`; None: every row by its keys.
    columns: the flag `--columns`, for any table.
  """

  image_dir: str | None = None
  format: str | None = None
  columns: str | None = None

  def form(self) -> formats.Format | None:
    """The chosen format; UserError for an unknown name."""
    if self.format and self.columns:
      raise UserError(
        "--format and --columns cannot be used together: give one of them"
      )
    if not self.format and not self.columns:
      return None
    return formats.find(self.format or "", self.columns)


def add_arguments(parser: argparse._ActionsContainer) -> None:
  """The flags of a Layout, but for --image-dir."""
  parser.add_argument("--format", metavar="NAME", help=(
    "layout of the samples (default: recognised by its keys), one of "
    + ", ".join(formats.FORMATS)
  ))  # fmt: skip
  parser.add_argument("--columns", metavar="NAME=COLUMN,...", help=(
    "layout of any table: image=...,question=...,chosen=...,rejected=..."
  ))  # fmt: skip
  add_follow_links(parser)


class _Reader:
  """Makes samples of rows, and remembers what it has recognised."""

  def __init__(self, path: Path, layout: Layout) -> None:
    self._named = layout.form()
    self._last: formats.Format | None = self._named
    self._folder = layout.image_dir
    if self._folder is None and pictures_folder(path).is_dir():
      self._folder = str(pictures_folder(path))
    self._ids: collections.Counter[str] = collections.Counter()
    self.rows: collections.Counter[str] = collections.Counter()
    self.pairs = self.marked = 0

  def _pick(self, names: Sequence[str]) -> str:
    if self._folder is None or "://" in self._folder:
      return names[0]
    there = (n for n in names if (Path(self._folder or "") / n).is_file())
    return names[0] if len(names) == 1 else next(there, names[0])

  def _form(self, row: object) -> formats.Format:
    if not isinstance(row, dict):
      raise formats.Malformed(f"is {base.kind(row)}; want an object")
    form = self._named or formats.recognise(row) or self._last
    if form is None:
      raise formats.Malformed(formats.refusal(row))
    return form

  def samples(self, row: Any) -> list[Sample]:
    """Raises Malformed."""
    form = self._form(row)
    if (key := formats.unread(row, form)) is not None:
      meaning = formats.MEANING.get(key, formats.ANSWER)
      raise formats.Malformed(
        f"key {key!r} seems to hold {meaning}, which the format {form.title} "
        "does not read, so it would be lost; choose another format with "
        "--format or --columns, or rename the key"
      )
    made = [self._finish(s, row, form) for s in form.samples(row, self._pick)]
    self._last = form
    self.rows[form.title] += 1
    self.pairs += sum(1 + len(s.more_rejected) for s in made if s.rejected)
    return made

  def _finish(self, sample: Sample, row: Any, form: formats.Format) -> Sample:
    marked = base.with_marks(sample, put=not form.own_ids)
    self.marked += marked is not sample
    kept = {k: v for k, v in row.items() if k not in form.reads}
    kept = {k: v for k, v in kept.items() if not _is_picture(v)}
    name, extra = self._id(marked, form), kept | sample.extra
    made = dataclasses.replace(marked, id=name, extra=extra)
    return made.within(self._folder)

  def _id(self, sample: Sample, form: formats.Format) -> str:
    """An id that stays the same when rows are appended."""
    name = sample.id
    if not name:
      files_named = [p.name for p in sample.images if p.is_file]
      said = [files_named, sample.turns, sample.rejected, sample.context]
      text = json.dumps(said).encode()
      name = hashlib.blake2b(text, digest_size=8).hexdigest()
    elif form.own_ids:
      return name
    self._ids[name] += 1
    count = self._ids[name]
    return name if count == 1 else f"{name}#{count}"

  def recognised(self, path: Path) -> str:
    """One line that reports what was read."""
    parts = [f"{count:,} of {title}" for title, count in self.rows.items()]
    if len(parts) == 1:
      parts = [f"{count:,} rows of {t}" for t, count in self.rows.items()]
    line = f"{path}: {', '.join(parts)}; {self.pairs:,} pairs"
    if self.marked:
      line += f"; {self.marked:,} without <image>: added before the question"
    return line


def _is_picture(value: object) -> bool:
  if isinstance(value, list):
    return any(map(_is_picture, value))
  return isinstance(value, Picture | bytes)


def iter_samples(
  path: str | Path,
  layout: Layout = Layout(),  # noqa: B008, it is frozen
  on_bad: Callable[[UserError], None] | None = None,
  announce: Callable[[str], object] | None = None,
) -> Iterator[Sample]:
  """The samples of a file or folder one by one; see `read_samples`."""
  path = Path(path)
  reader = _Reader(path, layout)
  for where, load in _rows(path):
    try:
      try:
        row = load()
        yield from reader.samples(row)
      except formats.Malformed as error:
        name = row.get("id") if isinstance(row, dict) else None
        label = f"id {str(name)[:80]!a}, " if name is not None else ""
        raise UserError(f"{where}: {label}{error}") from error
    except UserError as error:
      if on_bad is None:
        raise
      on_bad(error)
  if announce is not None:
    announce(reader.recognised(path))


def read_samples(
  path: str | Path,
  on_bad: Callable[[UserError], None] | None = None,
  layout: Layout = Layout(),  # noqa: B008, it is frozen
  announce: Callable[[str], object] | None = None,
) -> list[Sample]:
  """Reads every sample of a file or folder, in order.

  Args:
    path: see the module's text.
    on_bad: called with the error of each malformed row, which is then left
      out; without it the first error is raised.
    layout: the format, if keys do not identify it, and the folder of the
      pictures.
    announce: called with one line on what was recognised.

  Raises:
    UserError: names the file, the index (.json, from 0), line (.jsonl, from 1)
      or row (tables, from 0), the id and the field.
  """
  return list(iter_samples(path, layout, on_bad, announce))
