"""Where each record of a set of TFRecord shards lies."""

import dataclasses
import glob
import hashlib
import os
import re
import struct
import zipfile
from pathlib import Path

import google_crc32c
import numpy as np

from povid_jax.errors import UserError
from povid_jax.files import atomic_write, read_json

_VERSION = 1
_SHARD = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})")


@dataclasses.dataclass(frozen=True)
class Index:
  """Offsets of S shards and their N records, in order.

  offsets and lengths (of the payload, without framing) are int64[N], crcs (of
  the payload, masked) uint32[N]; starts int64[S] is the number of the first
  record of each shard; sizes and times int64[S] are the files' own.
  """

  shards: tuple[Path, ...]
  sizes: np.ndarray
  times: np.ndarray
  starts: np.ndarray
  offsets: np.ndarray
  lengths: np.ndarray
  crcs: np.ndarray


def _check_complete(shards: list[Path]) -> None:
  """Raises UserError if `-of-` in the names promises more than there is."""
  seen: dict[tuple[str, int], set[int]] = {}
  for shard in shards:
    if match := _SHARD.fullmatch(shard.name):
      name, index, count = match[1], int(match[2]), int(match[3])
      seen.setdefault((name, count), set()).add(index)
  if len({name for name, _ in seen}) < len(seen):
    raise UserError(
      f"{shards[0].parent}: shards of two different counts side by side; "
      "want one dataset in a folder: remove the shards of the other"
    )
  for (name, count), indices in seen.items():
    if missing := sorted(set(range(count)) - indices):
      raise UserError(
        f"{shards[0].parent}: shard {name}-{missing[0]:05d}-of-{count:05d} "
        f"is missing ({len(missing)} of {count}); copy or write all of them"
      )


def find_shards(path: str | Path, split: str) -> tuple[Path, ...]:
  """The shards of a split in a folder, or those that match a pattern.

  Raises:
    UserError: there are no shards, or some of a set are missing.
  """
  path = Path(path)
  if path.is_dir():
    # The pattern matches whole names: copies by a sync client ("... (1)") are
    # not shards.
    shards = sorted(
      p
      for p in path.glob(f"*-{split}.tfrecord-*-of-*")
      if p.name[0] != "." and _SHARD.fullmatch(p.name)
    )
    wanted = f"{path}: no shards povid-{split}.tfrecord-*; want a folder "
  else:
    shards = [Path(p) for p in sorted(glob.glob(str(path)))]
    wanted = f"{path}: no file matches; want TFRecord shards or a folder "
  if not shards:
    raise UserError(wanted + "written by `python -m data_gen write`")
  _check_complete(shards)
  return tuple(shards)


def _check_copies(index: Index) -> None:
  """Raises UserError where two shards hold the same records: one was copied in
  the place of another, whose records are missing.
  """
  ends = [*index.starts[1:].tolist(), len(index.offsets)]
  seen: dict[bytes, Path] = {}
  for shard, start, end in zip(index.shards, index.starts, ends, strict=True):
    held = index.crcs[start:end].tobytes() + index.lengths[start:end].tobytes()
    if held and held in seen:
      raise UserError(
        f"{shard}: holds the same records as {seen[held].name}; copy the right "
        "shard again, or write the folder again"
      )
    seen[held] = shard


def check_counts(path: str | Path, split: str, index: Index) -> None:
  """Compares the records of each shard with the folder's dataset_info.json.

  A shard that was cut between two records looks complete. Folders without the
  file, or whose file does not name the split, are not checked.

  Raises:
    UserError: a shard holds more or fewer records than it should.
  """
  info = Path(path) / "dataset_info.json"
  if not Path(path).is_dir() or not info.is_file():
    return
  splits = read_json(info, "data_gen write makes it").get("splits") or []
  try:
    lengths = {s["name"]: [int(n) for n in s["shardLengths"]] for s in splits}
  except (TypeError, KeyError, ValueError, OverflowError) as error:
    raise UserError(
      f"{info}: want `splits` with a name and shardLengths each"
    ) from error
  if (wanted := lengths.get(split)) is None:
    return
  ends = [*index.starts[1:].tolist(), len(index.offsets)]
  counts = [b - a for a, b in zip(index.starts.tolist(), ends, strict=True)]
  if len(counts) != len(wanted):
    raise UserError(
      f"{path}: {len(counts)} shards of {split}, {info.name} says "
      f"{len(wanted)}; want the folder as `data_gen write` made it"
    )
  for shard, count, want in zip(index.shards, counts, wanted, strict=True):
    if count != want:
      raise UserError(
        f"{shard}: holds {count} records, {info.name} says {want}; copy the "
        "shard again, or write the folder again"
      )


def masked_crc(data: bytes) -> int:
  """The CRC32C of TFRecord files, rotated and offset."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _walk(shard: Path) -> list[tuple[int, int, int]]:
  """(offset, length, CRC) of each record, from the framing alone."""
  rows: list[tuple[int, int, int]] = []
  with open(shard, "rb", buffering=0) as file:
    size = os.fstat(file.fileno()).st_size
    at = 0
    # The footer of a record and the header of the next are one read.
    head = os.pread(file.fileno(), 12, 0)
    while at < size:
      where = f"{shard}, record {len(rows)}"
      if len(head) < 12:
        raise UserError(
          f"{where}: the file ends within a header; copy or write it again"
        )
      length, crc = struct.unpack("<QI", head)
      if masked_crc(head[:8]) != crc:
        if at == 0 and head[:2] == b"\x1f\x8b":
          raise UserError(
            f"{shard}: it is compressed with GZIP; decompress all shards first "
            "(gunzip)"
          )
        raise UserError(
          f"{where}: wrong CRC of the length: damaged, or not a "
          "TFRecord file; copy or write it again"
        )
      end = at + 12 + length
      if end + 4 > size:
        raise UserError(
          f"{where}: the file is truncated, {end + 4 - size:,} bytes missing; "
          "copy or write it again"
        )
      tail = os.pread(file.fileno(), 16, end)
      rows.append((at + 12, length, int.from_bytes(tail[:4], "little")))
      at, head = end + 4, tail[4:]
  return rows


def _stat(shards: tuple[Path, ...]) -> tuple[np.ndarray, np.ndarray]:
  stats = [shard.stat() for shard in shards]
  sizes = np.array([stat.st_size for stat in stats], np.int64)
  return sizes, np.array([stat.st_mtime_ns for stat in stats], np.int64)


def _build(shards: tuple[Path, ...]) -> Index:
  sizes, times = _stat(shards)
  starts, rows = [], []
  for shard in shards:
    starts.append(len(rows))
    rows.extend(_walk(shard))
  table = np.array(rows, np.int64).reshape(-1, 3)
  return Index(
    shards=shards,
    sizes=sizes,
    times=times,
    starts=np.array(starts, np.int64),
    offsets=table[:, 0].copy(),
    lengths=table[:, 1].copy(),
    crcs=table[:, 2].astype(np.uint32),
  )


def _places(shards: tuple[Path, ...]) -> tuple[Path, Path]:
  """Where an index may lie: next to the shards, or in the user's cache."""
  names = "\0".join(shard.name for shard in shards)
  key = hashlib.sha256(names.encode()).hexdigest()[:8]
  stem = _SHARD.sub(r"\1", shards[0].name)
  folder = os.path.realpath(shards[0].parent)
  far = hashlib.sha256(f"{folder}\0{names}".encode()).hexdigest()[:24]
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return (
    shards[0].parent / f".{stem}.{key}.index",
    Path(cache) / "povid_jax" / "records" / f"{far}.index",
  )


def _load(path: Path, shards: tuple[Path, ...]) -> Index | None:
  """The stored index if it exists, is complete and still fits the shards."""
  try:
    with open(path, "rb") as file, np.load(file) as stored:
      if int(stored["version"]) != _VERSION:
        return None
      fields = dataclasses.fields(Index)[1:]
      index = Index(shards, **{f.name: stored[f.name] for f in fields})
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return None
  sizes, times = _stat(shards)
  same = np.array_equal(sizes, index.sizes)
  return index if same and np.array_equal(times, index.times) else None


def _store(path: Path, index: Index) -> bool:
  arrays = dict(vars(index))
  del arrays["shards"]
  try:
    with atomic_write(path, "wb") as file:
      np.savez(file, version=_VERSION, **arrays)
  except (UserError, OSError):
    return False
  return True


def open_index(shards: tuple[Path, ...]) -> Index:
  """Loads the index of these shards, or walks them once and keeps it.

  Raises:
    UserError: a shard is damaged, or a copy of another; names the file.
  """
  places = _places(shards)
  for place in places:
    if (index := _load(place, shards)) is not None:
      return index
  try:
    index = _build(shards)
    _check_copies(index)
  except OSError as error:
    raise UserError(f"{error.filename}: {error.strerror}") from error
  # If it cannot be stored, the index is built again at the next start.
  any(_store(place, index) for place in places)
  return index
