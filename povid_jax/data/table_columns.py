"""Which columns of a table hold pictures, and the pictures in their place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from povid_jax import errors
from povid_jax.data.picture import Cell, Picture
from povid_jax.errors import UserError


def pyarrow() -> Any:
  try:
    import pyarrow as pa
    import pyarrow.parquet
  except ImportError as error:
    raise UserError(
      "tables (.parquet, .arrow) need pyarrow: pip install 'povid_jax[parquet]'"
    ) from error
  return pa


def _failed(path: object, error: BaseException) -> UserError:
  return UserError(f"{path}: not a readable table: {errors.first_line(error)}")


class Guard:
  """Turns what Arrow raises into a UserError that names the file."""

  def __init__(self, path: object) -> None:
    self._path = path

  def __enter__(self) -> None:
    pass

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    if isinstance(error, pyarrow().ArrowException | OSError):
      raise _failed(self._path, error) from error


def _is_bytes(kind: Any) -> bool:
  types = pyarrow().types
  return (
    types.is_binary(kind)
    or types.is_large_binary(kind)
    or types.is_fixed_size_binary(kind)
    or types.is_binary_view(kind)
  )


def is_list(kind: Any) -> bool:
  types = pyarrow().types
  return (
    types.is_list(kind)
    or types.is_large_list(kind)
    or types.is_fixed_size_list(kind)
  )


def is_encoded(kind: Any) -> bool:
  """Whether a type is a struct with `bytes`, as datasets.Image stores it."""
  pa = pyarrow()
  return pa.types.is_struct(kind) and any(
    field.name == "bytes" and _is_bytes(field.type) for field in kind
  )


def holds_pictures(kind: Any) -> bool:
  inner = kind.value_type if is_list(kind) else kind
  return _is_bytes(inner) or is_encoded(inner)


def has_paths(kind: Any) -> bool:
  """Whether `path` is there to read in place of the bytes."""
  inner = kind.value_type if is_list(kind) else kind
  return is_encoded(inner) and inner.get_field_index("path") >= 0


def pictures(
  column: str, path: str, first: int, values: Sequence[Any], many: bool
) -> list[Any]:
  """Pictures in place of a column's values: paths, or whether bytes exist."""

  def one(value: Any, row: int, item: int | None) -> Picture | None:
    if value is None or value is False:
      return None
    name = value if isinstance(value, str) else ""
    name = name or f"{Path(path).stem}, row {row}"
    return Picture(name, cell=Cell(path, column, row, item))

  out: list[Any] = []
  for row, value in enumerate(values, first):
    if many:
      items = enumerate(value or ())
      out.append([p for i, v in items if (p := one(v, row, i))])
    else:
      out.append(one(value, row, None))
  return out


def names(value: Any) -> Any:
  """What `pictures` wants of one value that was read with its bytes."""
  if isinstance(value, list):
    return [names(one) for one in value]
  if isinstance(value, dict):
    return value.get("path") or value.get("bytes") is not None
  return value is not None
