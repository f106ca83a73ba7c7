"""Preference records in TFRecord files, read by random access.

One tf.train.Example per record (povid_jax/data/record.py), TFRecord framing
with masked CRC32C, shards named `povid-{split}.tfrecord-00000-of-00008`.
TensorFlow is needed neither to write nor to read them.
"""

import bisect
import contextlib
import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, SupportsIndex

from povid_jax.data import record_index
from povid_jax.data.record import (
  OPTIONAL,
  Record,
  Rejected,
  decode,
  encode,
  optional,
  parse,
)
from povid_jax.data.record_index import masked_crc
from povid_jax.errors import UserError
from povid_jax.files import atomic_write, read_json

__all__ = [
  "OPTIONAL",
  "Record",
  "RecordSource",
  "RecordWriter",
  "Records",
  "Rejected",
  "decode",
  "encode",
  "optional",
  "shard_name",
]

_FOOTER = struct.Struct("<I")  # CRC of the data
_COPY = "copy the folder again, or write it again (data_gen write)"
_MAX_OPEN = 256  # descriptors kept; the usual limit of a process is 1,024


def shard_name(split: str, index: int, count: int) -> str:
  """`povid-train.tfrecord-00003-of-00008`."""
  return f"povid-{split}.tfrecord-{index:05d}-of-{count:05d}"


class RecordWriter:
  """Writes one shard; the file appears only when the writer is closed.

  Use it as a context manager: an exception inside leaves no file behind.
  """

  def __init__(self, path: str | Path) -> None:
    self._stack = contextlib.ExitStack()
    self._file = self._stack.enter_context(atomic_write(path, "wb"))

  def write(self, record: Record | bytes) -> None:
    data = record if isinstance(record, bytes) else encode(record)
    length = struct.pack("<Q", len(data))
    self._file.write(length + _FOOTER.pack(masked_crc(length)))
    self._file.write(data)
    self._file.write(_FOOTER.pack(masked_crc(data)))

  def close(self) -> None:
    self._stack.close()

  def __enter__(self) -> "RecordWriter":
    return self

  def __exit__(self, *error: Any) -> None:
    self._stack.__exit__(*error)


class Records(Protocol):
  """Records by number: a RecordSource, or a list of them."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> Record: ...


def _stored_overflow(folder: Path) -> str | None:
  """wrap or clip: how `data_gen write` made the noisy pictures of a folder.

  None where it made none, or where the folder does not tell.
  """
  facts = folder / "povid.json"
  if not facts.is_file():
    return None
  held = read_json(facts, "data_gen write makes it")
  return held.get("overflow") if held.get("store_noisy") else None


class RecordSource:
  """Random access to all records of a split: `len(source)`, `source[i]`.

  Records are numbered through the shards in the order of their names. The
  first opening walks the shards once and keeps an index of offsets next to
  them (or under ~/.cache/povid_jax if that folder cannot be written to); it is
  made again whenever a shard's size or time of change differs. Can be pickled
  and shared between threads and worker processes.

  Args:
    path: a folder of shards, or a glob pattern.
    split: "train", "validation", ... for a folder; unused for a pattern.

  Raises:
    UserError: no shards, one of them missing, truncated or not a TFRecord, or
      with other records than dataset_info.json says.
  """

  def __init__(self, path: str | Path, split: str = "train") -> None:
    self._index = record_index.open_index(record_index.find_shards(path, split))
    record_index.check_counts(path, split, self._index)
    self.noisy_overflow = _stored_overflow(Path(path))
    self._starts: list[int] = self._index.starts.tolist()
    self._fingerprint: str | None = None
    self._files: dict[int, int] = {}

  def __len__(self) -> int:
    return len(self._index.offsets)

  def __repr__(self) -> str:
    # Grain stores it in checkpoints: equal for equal content, wherever it is.
    return f"RecordSource({self.fingerprint()[:16]}, {len(self)} records)"

  def __getstate__(self) -> dict:
    return self.__dict__ | {"_files": {}}

  def __del__(self, close: Callable[[int], None] = os.close) -> None:
    # bound here, because Python may unload modules before this object at exit
    for descriptor in self.__dict__.get("_files", {}).values():
      close(descriptor)

  def read(self, i: SupportsIndex) -> bytes:
    """The serialised Example of record i, its CRC checked.

    Raises:
      IndexError: the record does not exist.
      UserError: the file was cut or changed; the message names the file and the
        record.
    """
    i = int(i)
    if not 0 <= i < len(self):
      raise IndexError(f"record {i} of {len(self)}")
    size = int(self._index.lengths[i])
    shard = self._shard(i)
    data = self._pread(shard, size, int(self._index.offsets[i]))
    if len(data) < size:
      raise UserError(f"{self._where(i)}: the file ends too early; {_COPY}")
    # The index holds the CRC that stood behind the data.
    if masked_crc(data) != self._index.crcs[i]:
      raise UserError(
        f"{self._where(i)}: wrong CRC, the data is damaged; {_COPY}"
      )
    return data

  def __getitem__(self, i: SupportsIndex) -> Record:
    data = self.read(i)
    try:
      return parse(data)
    except ValueError as error:
      raise UserError(f"{self._where(int(i))}: {error}") from error

  def _shard(self, i: int) -> int:
    return bisect.bisect_right(self._starts, i) - 1

  def locate(self, i: int) -> tuple[Path, int]:
    """The shard of record i and its number in there."""
    shard = self._shard(i)
    return self._index.shards[shard], i - self._starts[shard]

  def _where(self, i: int) -> str:
    shard, row = self.locate(i)
    return f"{shard}, record {row}"

  def _pread(self, shard: int, size: int, offset: int) -> bytes:
    try:
      if (descriptor := self._files.get(shard)) is not None:
        return os.pread(descriptor, size, offset)
      descriptor = os.open(self._index.shards[shard], os.O_RDONLY)
      if len(self._files) < _MAX_OPEN:
        # If two threads open the file at the same time, one descriptor is kept.
        if self._files.setdefault(shard, descriptor) == descriptor:
          return os.pread(descriptor, size, offset)
      try:
        return os.pread(descriptor, size, offset)
      finally:
        os.close(descriptor)
    except OSError as error:
      raise UserError(
        f"{self._index.shards[shard]}: {error.strerror}"
      ) from error

  def fingerprint(self) -> str:
    """Hash of the shards' names, sizes and record CRCs; not of their folder."""
    if self._fingerprint is None:
      digest = hashlib.sha256()
      for shard, size in zip(
        self._index.shards, self._index.sizes, strict=True
      ):
        digest.update(f"{shard.name}\0{int(size)}\0".encode())
      digest.update(self._index.crcs.astype("<u4").tobytes())
      self._fingerprint = digest.hexdigest()
    return self._fingerprint
