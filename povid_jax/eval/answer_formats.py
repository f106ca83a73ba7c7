"""Answer files of other tools as plain rows: id, question, picture, text."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from povid_jax import files
from povid_jax.errors import UserError
from povid_jax.eval.benchmarks.xlsx import read_xlsx

Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
  """The rows of a file, those of lmms-eval and VLMEvalKit unwrapped.

  JSON: a list, an object per line, a mapping {id: text}, the original CHAIR's
  {"imgToEval": {...}}. Tables: .xlsx, .csv, .tsv with names in the first line.

  Raises:
    UserError: no such file, or nothing of these.
  """
  if path.suffix == ".xlsx":
    return _with_names(path, read_xlsx(path))
  if path.suffix in (".csv", ".tsv"):
    return _with_names(path, _delimited(path))
  return list(map(_unwrapped, _json_rows(path)))


def _delimited(path: Path) -> list[list[str]]:
  csv.field_size_limit(1 << 30)  # a picture in base64 is one field
  mark = "\t" if path.suffix == ".tsv" else ","
  # not splitlines: it also cuts at form feeds and U+2028, which answers hold
  lines = io.StringIO(files.read_text(path), newline="")
  try:
    return list(csv.reader(lines, delimiter=mark))
  except csv.Error as error:
    raise UserError(f"{path}: cannot be read as a table: {error}") from error


def _with_names(path: Path, table: list[list[str]]) -> list[Row]:
  if not table:
    raise UserError(f"{path}: the table is empty; want a row for each answer")
  names, *lines = table
  rows = []
  for number, line in enumerate(lines, 1):
    cells: dict[Any, Any] = dict(zip(names, line, strict=False))
    cells[None] = line[len(names) :]
    row = files.named_cells(cells, f"{path}, row {number}")
    rows.append({n: cell for n, cell in row.items() if n and cell != ""})
  return [row for row in rows if row]


def _json_rows(path: Path) -> list[Row]:
  text = files.read_text(path)
  if text.lstrip()[:1] == "[" or path.suffix == ".json":
    try:
      value = files.parse_json(text)
    except ValueError as error:
      # many .json files of this field hold one object per line
      if not isinstance(error, json.JSONDecodeError):
        raise UserError(f"{path}: not JSON: {error}") from error
    else:
      return _from_json(value, path)
  return list(files.json_objects(path))


def _from_json(value: Any, path: Path) -> list[Row]:
  if isinstance(value, dict):
    if isinstance(value.get("imgToEval"), dict):
      value = list(value["imgToEval"].values())
    elif value and all(isinstance(text, str) for text in value.values()):
      value = [{"question_id": k, "text": text} for k, text in value.items()]
    elif isinstance(value.get("logs"), list):  # one file of lmms-eval
      value = value["logs"]
    else:
      value = [value]
  if not isinstance(value, list) or not all(isinstance(r, dict) for r in value):
    raise UserError(f"{path}: expected a list of answers, each a JSON object")
  return value


def _first(value: Any) -> Any:
  while isinstance(value, list) and value:
    value = value[0]
  return value


def _unwrapped(row: Row) -> Row:
  """A sample of lmms-eval's log as a row; every other row as it is."""
  said = row.get("filtered_resps", row.get("resps"))
  if "doc_id" not in row or said is None:
    return row
  doc = row.get("doc")
  doc = doc if isinstance(doc, dict) else {}
  out: Row = {"text": _first(said)}
  for name in ("question_id", "id", "index"):
    if doc.get(name) is not None:
      out["question_id"] = doc[name]
      break
  asked = _named(doc, ("text", "question", "query")) or row.get("input")
  if isinstance(asked, str):
    out["prompt"] = asked
  if picture := _named(doc, ("image", "image_path", "image_source")):
    out["image"] = picture
  return out


def _named(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
  return next((row[n] for n in names if isinstance(row.get(n), str)), None)


def with_field(rows: Iterable[Row], field: str, path: Path) -> list[Row]:
  """The rows with `text` from the field that --answer-field names.

  Raises:
    UserError: a row without such a text.
  """
  out = []
  for number, row in enumerate(rows, 1):
    value: Any = row
    for key in [field] if field in row else field.split("."):
      value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(_first(value), str):
      raise UserError(
        f"{path}: answer {number} has no text {field!r} (--answer-field); "
        f"its fields are {', '.join(row) or 'none'}"
      )
    out.append({**row, "text": _first(value), NAMED: True})
  return out


NAMED = "--answer-field"  # marks a row whose text the user has named
