"""JSON and JSON lines, with errors that name the file and the line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError


def read_json(path: Path) -> Any:
  """Raises UserError that names the file when it is not JSON."""
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: not readable as JSON ({error})") from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
  """Objects of a .jsonl file; half a last line is left out."""
  lines = path.read_text(encoding="utf-8").split("\n")
  for number, text in enumerate(lines, start=1):
    if not text.strip():
      continue
    try:
      row = json.loads(text)
    except ValueError as error:
      if number == len(lines):
        return
      raise UserError(f"{path} line {number}: not JSON ({error})") from error
    if not isinstance(row, dict):
      raise UserError(f"{path} line {number}: want an object, got {text[:40]}")
    yield row
