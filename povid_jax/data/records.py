"""Preference records in TFRecord files, read by random access.

One tf.train.Example per record (povid_jax/data/example.py), TFRecord framing
with masked CRC32C, shards named `povid-{split}.tfrecord-00000-of-00008`.
TensorFlow is needed neither to write nor to read them.
"""

import bisect
import contextlib
import dataclasses
import hashlib
import itertools
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, SupportsIndex, TypeVar, cast

from povid_jax.data import example, record_index
from povid_jax.data.record_index import masked_crc
from povid_jax.errors import UserError
from povid_jax.files import atomic_write, read_json

T = TypeVar("T")
_FOOTER = struct.Struct("<I")  # CRC of the data
# Features that only some records have, and their kinds.
OPTIONAL = {
  "context": "text",
  "end_scored": "int64",
  "more_rejected": "text",
  "more_rejected_turns": "int64",
  "rejected_weight": "float32",
  "system": "text",
}
# Features that writers may leave out: those of a list that may be empty.
_LISTS = (
  "image",
  "image_noisy",
  "rejected",
  *OPTIONAL,
)
_MAX_OPEN = 256  # descriptors kept; the usual limit of a process is 1,024


@dataclasses.dataclass(frozen=True)
class Rejected:
  """One more rejected answer to the same prompt.

  Attributes:
    turns: as `Record.rejected`.
    weight: multiplies the log-prob of each of its tokens.
  """

  turns: tuple[str, ...]
  weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Record:
  """A preference pair with its encoded pictures; `rejected` may be ().

  Attributes:
    context: the answer so far; chosen and rejected go on from there. It is
      read and not scored.
    end_scored: whether the end of the answer (</s>) follows the last turn and
      is scored; None: where there is no context.
    rejected_weight: multiplies the log-prob of each token of `rejected`.
    more_rejected: other rejected answers, beside `rejected`.
    system: the system's words in place of the template's; "": none.
  """

  id: str
  images: tuple[bytes, ...]
  image_noisy: bytes | None
  noise_step: int  # -1: none stored
  noise_seed: int  # 63 bit
  prompt_turns: tuple[str, ...]
  chosen: tuple[str, ...]
  rejected: tuple[str, ...]
  category: str
  injector: str
  context: str = ""
  end_scored: bool | None = None
  rejected_weight: float = 1.0
  more_rejected: tuple[Rejected, ...] = ()
  system: str = ""

  @property
  def every_rejected(self) -> tuple[Rejected, ...]:
    """All rejected answers; () where there are none."""
    first = Rejected(self.rejected, self.rejected_weight)
    return (first, *self.more_rejected) if self.rejected else ()

  @property
  def scores_end(self) -> bool:
    """Whether the last turn ends with </s>, and this is scored."""
    return not self.context if self.end_scored is None else self.end_scored


def encode(record: Record) -> bytes:
  """A record as a serialised tf.train.Example, the same bytes every time.

  Raises:
    UserError: a text that is no Unicode (half a surrogate pair).
  """

  def texts(values: Sequence[str]) -> list[bytes]:
    try:
      return [value.encode() for value in values]
    except UnicodeEncodeError as error:
      raise UserError(f"record {record.id!a}: {error}; want Unicode") from error

  noisy = record.image_noisy
  return example.encode_example(
    {
      "id": texts([record.id]),
      "image": record.images,
      "image_noisy": [] if noisy is None else [noisy],
      "noise_step": [int(record.noise_step)],
      "noise_seed": [int(record.noise_seed)],
      "prompt_turns": texts(record.prompt_turns),
      "chosen": texts(record.chosen),
      "rejected": texts(record.rejected),
      "category": texts([record.category]),
      "injector": texts([record.injector]),
      **_optional(record, texts),
    }
  )


def optional(record: Record) -> frozenset[str]:
  """The names of OPTIONAL that a record has."""
  return frozenset(_optional(record, lambda values: [b"" for _ in values]))


def _optional(
  record: Record, texts: Callable[[Sequence[str]], list[bytes]]
) -> dict[str, example.Values]:
  """Features that only some records have.

  A plain pair has none of them, so that its bytes are those of any version.
  """
  found: dict[str, example.Values] = {}
  if record.system:
    found["system"] = texts([record.system])
  if record.context:
    found["context"] = texts([record.context])
  if record.end_scored is not None:
    found["end_scored"] = [int(record.end_scored)]
  others = record.more_rejected
  weights = [float(answer.weight) for answer in record.every_rejected]
  if any(weight != 1.0 for weight in weights):
    found["rejected_weight"] = weights
  if others:
    turns = [turn for answer in others for turn in answer.turns]
    found["more_rejected"] = texts(turns)
    found["more_rejected_turns"] = [len(answer.turns) for answer in others]
  return found


def _take(
  features: dict[str, example.Values], name: str, kind: type[T]
) -> Sequence[T]:
  if name not in features:
    raise ValueError(f"feature {name} is missing")
  values = features[name]
  if any(not isinstance(value, kind) for value in values):
    raise ValueError(f"feature {name}: want a list of {kind.__name__}")
  return cast(Sequence[T], values)


def _one(features: dict[str, example.Values], name: str, kind: type[T]) -> T:
  values = _take(features, name, kind)
  if len(values) != 1:
    raise ValueError(f"feature {name} has {len(values)} values, want one")
  return values[0]


def _decode(data: bytes) -> Record:
  features = example.decode_example(data)
  # Writers may leave empty lists out altogether.
  optional = dict.fromkeys(_LISTS, ())
  features = optional | features

  def text(name: str) -> str:
    return _one(features, name, bytes).decode()

  def texts(name: str) -> tuple[str, ...]:
    return tuple(v.decode() for v in _take(features, name, bytes))

  def at_most_one(name: str, kind: type[T]) -> T | None:
    return _one(features, name, kind) if features[name] else None

  noisy = at_most_one("image_noisy", bytes)
  end_scored = at_most_one("end_scored", int)
  weights = _take(features, "rejected_weight", float)
  others = _split(
    texts("more_rejected"), _take(features, "more_rejected_turns", int)
  )
  if len(weights) not in (0, 1 + len(others)):
    raise ValueError(
      f"feature rejected_weight has {len(weights)} values, want one for each "
      f"of {1 + len(others)} rejected answers"
    )
  weights = weights or [1.0] * (1 + len(others))
  return Record(
    id=text("id"),
    images=tuple(_take(features, "image", bytes)),
    image_noisy=noisy,
    noise_step=_one(features, "noise_step", int),
    noise_seed=_one(features, "noise_seed", int),
    prompt_turns=texts("prompt_turns"),
    chosen=texts("chosen"),
    rejected=texts("rejected"),
    category=text("category"),
    injector=text("injector"),
    context=(at_most_one("context", bytes) or b"").decode(),
    end_scored=None if end_scored is None else bool(end_scored),
    rejected_weight=weights[0],
    more_rejected=tuple(map(Rejected, others, weights[1:])),
    system=(at_most_one("system", bytes) or b"").decode(),
  )


def _split(
  turns: tuple[str, ...], sizes: Sequence[int]
) -> list[tuple[str, ...]]:
  """Turns of several answers, one after the other, to one tuple for each."""
  if min(sizes, default=1) < 1 or sum(sizes) != len(turns):
    raise ValueError(
      f"feature more_rejected has {len(turns)} turns, more_rejected_turns "
      f"counts {list(sizes)}"
    )
  ends = list(itertools.accumulate(sizes))
  return [turns[end - n : end] for n, end in zip(sizes, ends, strict=True)]


def decode(data: bytes) -> Record:
  """Parses what `encode` or TensorFlow wrote.

  Raises:
    UserError: says what is wrong with the bytes.
  """
  try:
    return _decode(data)
  except ValueError as error:
    raise UserError(f"not a preference record: {error}") from error


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
    # bound here: at the interpreter's end modules may be gone before we are
    for descriptor in self.__dict__.get("_files", {}).values():
      close(descriptor)

  def read(self, i: SupportsIndex) -> bytes:
    """The serialised Example of record i, its CRC checked.

    Raises:
      IndexError: no such record.
      UserError: the file was cut or changed; names it and the record.
    """
    i = int(i)
    if not 0 <= i < len(self):
      raise IndexError(f"record {i} of {len(self)}")
    size = int(self._index.lengths[i])
    shard = self._shard(i)
    data = self._pread(shard, size, int(self._index.offsets[i]))
    if len(data) < size:
      raise UserError(f"{self._where(i)}: the file ends too early")
    # The index holds the CRC that stood behind the data.
    if masked_crc(data) != self._index.crcs[i]:
      raise UserError(f"{self._where(i)}: wrong CRC, the data is damaged")
    return data

  def __getitem__(self, i: SupportsIndex) -> Record:
    data = self.read(i)
    try:
      return _decode(data)
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
        # Of two threads that get here at once, one descriptor is kept.
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
