"""Rows of .parquet and .arrow files, and the pictures inside them.

Pictures stay where they are: rows are read without them, and a Cell says where
one lies. So a table of any size takes the memory of its texts, and reading the
pictures in their order takes the memory of a few.
"""

import bisect
import functools
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from povid_jax.data import table_columns
from povid_jax.data.picture import Cell

SUFFIXES = (".parquet", ".arrow", ".feather")
_ROWS = 256  # texts are read so many rows at a time
_PICTURES = 16  # pictures are read so many at a time


# --- parquet ---------------------------------------------------------------


def _open(path: str) -> Any:
  # Through a buffer, not column by column: a row group may hold gigabytes.
  return table_columns.pyarrow().parquet.ParquetFile(
    path, pre_buffer=False, buffer_size=1 << 20
  )


def _leaves(file: Any, column: str) -> list[str]:
  paths = [file.schema.column(i).path for i in range(len(file.schema))]
  return [p for p in paths if p == column or p.startswith(f"{column}.")]


def _all_present(file: Any, leaf: str, group: int) -> bool:
  """Whether the statistics say that no value of a row group is null."""
  rows = file.metadata.row_group(group)
  for i in range(rows.num_columns):
    chunk = rows.column(i)
    if chunk.path_in_schema == leaf:
      stats = chunk.statistics
      return stats is not None and stats.has_null_count and not stats.null_count
  return False


def _bytes_leaf(file: Any, column: str, kind: Any) -> str:
  leaves = _leaves(file, column)
  inner = kind.value_type if table_columns.is_list(kind) else kind
  if table_columns.is_encoded(inner):
    leaves = [leaf for leaf in leaves if leaf.endswith(".bytes")]
  return leaves[0]


def _batches(file: Any, columns: list[str], groups: Any, size: int) -> Any:
  return file.iter_batches(
    batch_size=size, row_groups=groups, columns=columns, use_threads=False
  )


def _known(file: Any, column: str, kind: Any, group: int) -> Iterator[Any]:
  """The values for `pictures`, row by row; bytes are read only if needed."""
  leaf = _bytes_leaf(file, column, kind)
  count = file.metadata.row_group(group).num_rows
  present = _all_present(file, leaf, group)
  if present and table_columns.has_paths(kind):
    others = [x for x in _leaves(file, column) if x.endswith(".path")]
    for batch in _batches(file, others, [group], _ROWS):
      for value in batch.column(0).to_pylist():
        if isinstance(value, list):
          yield [(v or {}).get("path") or True for v in value]
        else:
          yield (value or {}).get("path") or True
  elif present and not table_columns.is_list(kind):
    yield from [True] * count
  else:
    for batch in _batches(file, [column], [group], _PICTURES):
      yield from map(table_columns.names, batch.column(0).to_pylist())


def _parquet_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
  file = _open(path)
  kinds = {field.name: field.type for field in file.schema_arrow}
  held = {
    name: kind
    for name, kind in kinds.items()
    if table_columns.holds_pictures(kind)
  }
  texts = [name for name in kinds if name not in held]
  at = 0
  for group in range(file.num_row_groups):
    known = {n: _known(file, n, kind, group) for n, kind in held.items()}
    left = file.metadata.row_group(group).num_rows
    batches = _batches(file, texts, [group], _ROWS) if texts else None
    while left:
      size = min(left, _ROWS)
      columns = {}
      if batches is not None:
        batch = next(batches)
        size = batch.num_rows
        columns = {name: batch.column(name).to_pylist() for name in texts}
      for name, kind in held.items():
        values = [next(known[name]) for _ in range(size)]
        columns[name] = table_columns.pictures(
          name, path, at, values, table_columns.is_list(kind)
        )
      for i in range(size):
        yield at + i, {name: columns[name][i] for name in kinds}
      at, left = at + size, left - size


class _ParquetCells:
  """Pictures of one column, read forwards a few at a time."""

  def __init__(self, path: str, column: str) -> None:
    self._file = _open(path)
    sizes = [
      self._file.metadata.row_group(i).num_rows
      for i in range(self._file.num_row_groups)
    ]
    self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
    kind = self._file.schema_arrow.field(column).type
    self._leaf = _bytes_leaf(self._file, column, kind)
    self._batches: Any = iter(())
    self._next = 0  # the row with which the next batch starts
    # The previous batch stays, because threads read a few rows apart.
    self._window: deque[tuple[int, Any]] = deque(maxlen=2)

  def get(self, row: int) -> Any:
    for start, array in self._window:
      if start <= row < start + len(array):
        return array[row - start].as_py()
    group = bisect.bisect_right(self._starts, row) - 1
    if row < self._next or self._starts[group] > self._next or not self._window:
      groups = range(group, self._file.num_row_groups)
      self._batches = _batches(self._file, [self._leaf], groups, _PICTURES)
      self._next = self._starts[group]
      self._window.clear()
    while self._next <= row:
      array = next(self._batches).column(0)
      self._window.append((self._next, array))
      self._next += len(array)
    start, array = self._window[-1]
    return array[row - start].as_py()


# --- arrow -----------------------------------------------------------------


def _arrow_batches(path: str) -> list[Any]:
  """All batches of a stream or file; memory-mapped, so nothing is read yet."""
  pa = table_columns.pyarrow()
  source = pa.memory_map(path)
  try:
    reader = pa.ipc.open_file(source)
  except pa.ArrowInvalid:
    source.seek(0)
    return list(pa.ipc.open_stream(source))
  return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def _light_values(column: Any) -> list[Any]:
  """Values for `pictures` of a memory-mapped column; no bytes are copied."""
  pa = table_columns.pyarrow()
  kind = column.type
  if table_columns.is_list(kind):
    return [
      None if not row.is_valid else _light_values(row.values) for row in column
    ]
  valid = column.is_valid().to_pylist()
  if not table_columns.is_encoded(kind):
    return valid
  bytes_there = pa.compute.struct_field(column, "bytes").is_valid().to_pylist()
  paths: list[Any] = [None] * len(column)
  if kind.get_field_index("path") >= 0:
    paths = pa.compute.struct_field(column, "path").to_pylist()
  return [
    (p or b) if v else None
    for v, p, b in zip(valid, paths, bytes_there, strict=True)
  ]


def _arrow_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
  at = 0
  for whole in _arrow_batches(path):
    for start in range(0, whole.num_rows, _ROWS):
      batch = whole.slice(start, _ROWS)
      columns = {}
      for field in batch.schema:
        column = batch.column(field.name)
        if table_columns.holds_pictures(field.type):
          values = _light_values(column)
          many = table_columns.is_list(field.type)
          columns[field.name] = table_columns.pictures(
            field.name, path, at, values, many
          )
        else:
          columns[field.name] = column.to_pylist()
      for i in range(batch.num_rows):
        yield at + i, {name: values[i] for name, values in columns.items()}
      at += batch.num_rows


class _ArrowCells:
  """Pictures of one column of a memory-mapped file."""

  def __init__(self, path: str, column: str) -> None:
    self._columns = [b.column(column) for b in _arrow_batches(path)]
    sizes = [len(c) for c in self._columns]
    self._starts = [sum(sizes[:i]) for i in range(len(sizes))]

  def get(self, row: int) -> Any:
    i = bisect.bisect_right(self._starts, row) - 1
    return self._columns[i][row - self._starts[i]].as_py()


# --- both ------------------------------------------------------------------


def rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """(number from 0, row) of a table; pictures as Picture objects.

  Raises:
    UserError: pyarrow is not installed, or the file is not a table.
  """
  table_columns.pyarrow()
  read = _parquet_rows if Path(path).suffix == ".parquet" else _arrow_rows
  with table_columns.Guard(path):
    yield from read(str(path))


@functools.lru_cache(maxsize=8)
def _cells(path: str, column: str, changed: int) -> Any:
  kind = _ParquetCells if Path(path).suffix == ".parquet" else _ArrowCells
  return kind(path, column)


_LOCK = threading.Lock()


def read_cell(cell: Cell) -> bytes | None:
  """The bytes of a picture in a table, None where the cell holds none.

  Fast for rows in their order; a step back starts again at its row group.

  Raises:
    UserError: the file cannot be read.
  """
  with table_columns.Guard(cell.path), _LOCK:
    changed = Path(cell.path).stat().st_mtime_ns
    value = _cells(cell.path, cell.column, changed).get(cell.row)
  if cell.item is not None:
    value = value[cell.item] if value is not None else None
  if isinstance(value, dict):
    value = value.get("bytes")
  return value
