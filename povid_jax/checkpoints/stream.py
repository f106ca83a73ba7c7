"""An Orbax checkpoint written piece by piece, in the memory of one piece.

Orbax's own save holds the whole tree, twice while it copies it. So it is given
a tree of the same names and one-element arrays, in the layout with a Zarr array
for each parameter, and the arrays are then written anew, a layer at a time.
What is on disk is what Orbax itself would have written, and restores by it.
"""

import collections
import dataclasses
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from povid_jax import errors, progress
from povid_jax.checkpoints import checksums
from povid_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pieces:
  """An array that is written in pieces.

  Attributes:
    shape: of the whole.
    dtype: of the whole.
    rows: its slices along the first axis, in order, when `stacked`; else the
      array itself as the only item.
    stacked: whether `rows` are slices.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  rows: Iterable[np.ndarray]
  stacked: bool


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """{'a/b': x} to {'a': {'b': x}}, the shape that Orbax stores."""
  nested: dict[str, Any] = {}
  for path, leaf in flat.items():
    *folders, name = path.split("/")
    node = nested
    for folder in folders:
      node = node.setdefault(folder, {})
    node[name] = leaf
  return nested


def _write(folder: Path, pieces: Pieces, sums: checksums.Sums) -> Iterator[int]:
  """Replaces one array's folder; yields the bytes of each piece written."""
  # the one-element array that Orbax wrote as a placeholder
  shutil.rmtree(folder)
  first = 1 if pieces.stacked else pieces.shape[0] if pieces.shape else 0
  chunks = [first, *pieces.shape[1:]] if pieces.shape else []
  spec = {
    "driver": "zarr",
    "kvstore": {"driver": "file", "path": f"{folder}/"},
    # weights hardly compress; a chunk is a layer, the unit that is written
    "metadata": {"chunks": chunks, "compressor": None},
  }
  store = ts.open(
    spec, create=True, dtype=ts.dtype(pieces.dtype), shape=pieces.shape
  ).result()
  for i, row in enumerate(pieces.rows):
    # waits for each write, so that only one piece is in memory
    (store[i] if pieces.stacked else store).write(row).result()
    # the file of a chunk is the chunk's bytes; Zarr names it by its place
    chunk = ".".join(["0"] * len(pieces.shape)) or "0"
    name = f"{i}{chunk[1:]}" if pieces.stacked else chunk
    # checksums are of the bytes in the file, which are in C order
    sums.add(folder.name, name, np.ascontiguousarray(row))
    yield row.nbytes


def save_pieces(folder: Path, tree: Mapping[str, Pieces]) -> dict[str, str]:
  """Writes flat paths as an Orbax checkpoint in `folder`, which must not exist.

  Peak memory is about twice the largest row of any parameter.

  Returns:
    The checksum of each array, see `checksums`.
  """
  names = nest({path: np.zeros(1, p.dtype) for path, p in tree.items()})
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
  absl = logging.getLogger("absl")
  level = absl.level
  absl.setLevel(logging.ERROR)  # Orbax warns that there is no OCDBT to merge
  try:
    with ocp.Checkpointer(handler) as checkpointer:
      checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(names))
  finally:
    absl.setLevel(level)
  total = sum(
    int(np.prod(p.shape, dtype=np.int64)) * p.dtype.itemsize
    for p in tree.values()
  )
  sums = checksums.Sums()
  done = progress.bar(total=total, desc="writing", unit="B")
  for path, pieces in tree.items():
    for size in _write(folder / path.replace("/", "."), pieces, sums):
      done.update(size)
  done.close()
  return sums.arrays()


def _read(store: ts.TensorStore) -> np.ndarray:
  try:
    return store.read().result()
  except ValueError as error:
    raise _unreadable(error) from error


def _unreadable(error: ValueError) -> UserError:
  """The error for a missing or truncated file; the message names it."""
  return UserError(f"weights cannot be read ({errors.first_line(error)})")


@dataclasses.dataclass(frozen=True)
class Stored:
  """An array on disk; indexing it by layer reads that layer alone.

  Attributes:
    store: the open TensorStore array.
  """

  store: ts.TensorStore

  @property
  def shape(self) -> tuple[int, ...]:
    return self.store.shape

  @property
  def dtype(self) -> np.dtype:
    return self.store.dtype.numpy_dtype

  def __getitem__(self, layer: int) -> np.ndarray:
    return _read(self.store[layer])

  def __array__(
    self, dtype: Any = None, copy: bool | None = None
  ) -> np.ndarray:
    del copy  # every call reads the file again
    return np.asarray(_read(self.store), dtype)


def open_pieces(folder: Path) -> dict[str, Stored]:
  """The arrays that `save_pieces` wrote, by flat path; nothing is read."""
  out = {}
  for array in sorted(folder.glob("*/.zarray")):
    spec = {
      "driver": "zarr",
      "kvstore": {"driver": "file", "path": f"{array.parent.resolve()}/"},
      # otherwise a lost file is read as zeros
      "fill_missing_data_reads": False,
    }
    path = array.parent.name.replace(".", "/")
    out[path] = Stored(ts.open(spec, open=True, read=True).result())
  return out


_AHEAD = 4  # layers that are read at the same time
_ALIGNED = 64  # bytes; JAX takes such an array without a copy on a CPU


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
  raw = np.empty(size + _ALIGNED, np.uint8)
  start = -raw.ctypes.data % _ALIGNED
  return raw[start : start + size].view(dtype).reshape(shape)


def _region(stored: Stored, index: tuple[slice, ...], dtype: Any) -> np.ndarray:
  """A part of an array, read a few layers at a time into its own memory."""
  if not index:
    return np.asarray(_read(stored.store), dtype)
  rows = range(*index[0].indices(stored.shape[0]))
  rest = [
    len(range(*part.indices(size)))
    for part, size in zip(index[1:], stored.shape[1:], strict=True)
  ]
  out = _empty((len(rows), *rest), np.dtype(dtype))
  # a chunk of an array that is not stacked holds all of its rows
  step = 1 if len(stored.shape) > 2 else max(1, len(rows))
  # one read at a time leaves the disk idle, and all at once would hold a second
  # copy of the array
  pending: collections.deque[tuple[slice, Any]] = collections.deque()
  for start in range(0, len(rows), step):
    to = slice(start, start + step)
    part = (slice(rows.start + to.start, rows.start + start + step), *index[1:])
    if part[0].stop > rows.stop:
      part = (slice(part[0].start, rows.stop), *index[1:])
    pending.append((to, stored.store[part].read()))
    if len(pending) == _AHEAD:
      _finish(out, *pending.popleft())
  while pending:
    _finish(out, *pending.popleft())
  return out


def _finish(out: np.ndarray, to: slice, future: Any) -> None:
  try:
    out[to] = future.result()
  except ValueError as error:
    raise _unreadable(error) from error


def load_array(stored: Stored, dtype: Any, sharding: Any) -> jax.Array:
  """Reads an array onto devices, shard by shard.

  Host memory beside the result: a few layers on a CPU, the shards of this
  process of one array on accelerators.

  Args:
    dtype: that it is cast to.
    sharding: where it goes.

  Raises:
    UserError: a file is missing or cut.
  """
  read = lambda index: _region(stored, index, dtype)
  array = jax.make_array_from_callback(stored.shape, sharding, read)
  # otherwise the next array is read at the same time
  return array.block_until_ready()


def whole(array: Any) -> Pieces:
  """An array that is already in memory."""
  value = np.asarray(jax.device_get(array))
  return Pieces(value.shape, value.dtype, [value], stacked=False)
