"""Finds a benchmark's files; the error for missing ones names their source."""

from pathlib import Path
from typing import Any

from povid_jax import files
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval.protocol import Benchmark, Need, Options


def _missing(benchmark: Benchmark, folder: Path) -> list[Need]:
  return [
    need
    for need in benchmark.needs
    if not need.optional and not any(folder.glob(need.pattern))
  ]


def check(benchmark: Benchmark, folder: Path) -> None:
  """Raises a UserError that names every missing file and its source."""
  missing = _missing(benchmark, folder)
  if missing:
    lines = "; ".join(
      f"{need.pattern} (from {need.source})" for need in missing
    )
    raise UserError(
      f"{benchmark.name}: not found in {folder}: {lines}. povid_jax downloads "
      "nothing: put the official files there under these names"
    )


def locate(data: Path, benchmark: Benchmark) -> Path:
  """The benchmark's folder: DATA/<name>, else DATA/annotations, else DATA.

  Raises:
    UserError: files are missing; the message lists them.
  """
  for folder in (data / benchmark.name, data / "annotations", data):
    if folder.is_dir() and not _missing(benchmark, folder):
      return folder
  check(benchmark, data / benchmark.name)
  raise AssertionError("check() accepts what the loop refused")


def image_folder(folder: Path, options: Options) -> Path:
  """Where the pictures are: --images, else images/ here, beside, or here."""
  if options.images is not None:
    return options.images
  for candidate in (folder / "images", folder.parent / "images"):
    if candidate.is_dir():
      return candidate
  return folder


def questions(
  benchmark: Benchmark, folder: Path, options: Options
) -> list[Question]:
  """The questions of a benchmark that is asked: the others have `measure`.

  Raises:
    UserError: a file is missing, or does not have its published format.
  """
  assert benchmark.questions is not None
  try:
    return benchmark.questions(folder, options)
  except (AttributeError, LookupError, TypeError, ValueError) as error:
    raise UserError(
      f"{benchmark.name}: a file in {folder} does not have its published "
      f"format ({type(error).__name__}: {error}); download it again"
    ) from error


read_text, read_json = files.read_text, files.load_json
read_jsonl = files.json_objects


def field(row: dict[str, Any], name: str, path: Path, number: int) -> Any:
  """row[name], or a UserError that names file, entry and field."""
  if not isinstance(row, dict):
    raise UserError(f"{path}: entry {number} is not an object: {row!r:.60}")
  if name not in row:
    raise UserError(f"{path}: entry {number} has no field {name!r}")
  return row[name]
