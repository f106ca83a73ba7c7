"""An Orbax checkpoint written piece by piece, in the memory of one piece.

Orbax's own save holds the whole tree, twice while it copies it. So it is given
a tree of the same names and one-element arrays, in the layout with a Zarr array
for each parameter, and the arrays are then written anew, a layer at a time.
What is on disk is what Orbax itself would have written, and restores by it.
"""

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

from povid_jax import progress
from povid_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pieces:
  """An array to come.

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


def _write(folder: Path, pieces: Pieces) -> Iterator[int]:
  """Replaces one array's folder; yields the bytes of each piece written."""
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
    (store[i] if pieces.stacked else store).write(row).result()
    yield row.nbytes


def save_pieces(folder: Path, tree: Mapping[str, Pieces]) -> None:
  """Writes flat paths as an Orbax checkpoint in `folder`, which must not be.

  Peak memory is about twice the largest row of any parameter.
  """
  names = nest({path: np.zeros(1, p.dtype) for path, p in tree.items()})
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
  absl = logging.getLogger("absl")
  level = absl.level
  absl.setLevel(logging.ERROR)  # it warns that there is no OCDBT to merge
  try:
    with ocp.Checkpointer(handler) as checkpointer:
      checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(names))
  finally:
    absl.setLevel(level)
  total = sum(
    int(np.prod(p.shape, dtype=np.int64)) * p.dtype.itemsize
    for p in tree.values()
  )
  done = progress.bar(total=total, desc="writing", unit="B")
  for path, pieces in tree.items():
    for size in _write(folder / path.replace("/", "."), pieces):
      done.update(size)
  done.close()


def _read(store: ts.TensorStore) -> np.ndarray:
  try:
    return store.read().result()
  except ValueError as error:  # a file that is missing or cut; it is named
    reason = str(error).splitlines()[0]
    raise UserError(f"weights cannot be read: {reason}") from error


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
    del copy  # it is always read anew
    return np.asarray(_read(self.store), dtype)


def open_pieces(folder: Path) -> dict[str, Stored]:
  """The arrays that `save_pieces` wrote, by flat path; nothing is read."""
  out = {}
  for array in sorted(folder.glob("*/.zarray")):
    spec = {
      "driver": "zarr",
      "kvstore": {"driver": "file", "path": f"{array.parent.resolve()}/"},
      "fill_missing_data_reads": False,  # zeros, for a file that got lost
    }
    path = array.parent.name.replace(".", "/")
    out[path] = Stored(ts.open(spec, open=True, read=True).result())
  return out


def whole(array: Any) -> Pieces:
  """An array that is already in memory."""
  value = np.asarray(jax.device_get(array))
  return Pieces(value.shape, value.dtype, [value], stacked=False)
