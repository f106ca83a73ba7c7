"""Fields of a config.json, each checked where it is taken out."""

from pathlib import Path
from typing import Any

from povid_jax.errors import UserError

Fields = dict[str, Any]


def want(value: Any, wanted: tuple, field: str, where: Path) -> None:
  """Raises UserError unless the value is one of those."""
  if value not in wanted:
    choice = " or ".join(repr(w) for w in wanted)
    raise UserError(f"{where}: {field} is {value!r:.80}, want {choice}")


def integer(values: Fields, field: str, where: Path, most: int = 10**9) -> int:
  """A whole number from 1 to `most`; UserError names the field."""
  value: Any = values.get(field)
  if type(value) is not int or not 1 <= value <= most:
    raise UserError(
      f"{where}: {field} is {value!r:.80}, want a whole number from 1 to {most}"
    )
  return value


def number(values: Fields, field: str, where: Path) -> float:
  """A number above zero; UserError names the field."""
  value: Any = values.get(field)
  if type(value) not in (int, float) or not 0 < value < float("inf"):
    raise UserError(f"{where}: {field} is {value!r:.80}, want a number above 0")
  return float(value)


def section(values: Fields, field: str, where: Path) -> Fields:
  """An object inside the config, {} where it is absent or null."""
  value = values.get(field)
  if value is not None and not isinstance(value, dict):
    raise UserError(f"{where}: {field} is {value!r:.80}, want an object")
  return value or {}
