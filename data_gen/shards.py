"""Which sample goes into which shard, and the writing of one shard.

The plan depends on the input, the seed and the options only, and a shard is
written by one worker from beginning to end: so the bytes are the same for any
number of workers, processes or machines.
"""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from data_gen import metadata
from data_gen.encode import Options, to_record
from data_gen.group import group
from povid_jax.data.pairs import Sample
from povid_jax.data.picture import Picture
from povid_jax.data.records import RecordWriter, encode, optional, shard_name
from povid_jax.data.samples import container_files, read_samples
from povid_jax.errors import UserError

VALIDATION = "validation"
SKIPPED_FILE = "skipped.jsonl"
SETTINGS_FILE = "povid.json"
RECORDS_PER_SHARD = 2000


@dataclass(frozen=True)
class Shard:
  split: str
  index: int
  count: int  # shards of this split
  samples: tuple[Sample, ...]

  @property
  def name(self) -> str:
    return shard_name(self.split, self.index, self.count)


@dataclass(frozen=True)
class Written:
  """The result of a shard; `skipped` lists (id, reason)."""

  split: str
  index: int
  records: int
  num_bytes: int
  noisy: int
  skipped: tuple[tuple[str, str], ...]
  optional: frozenset[str] = frozenset()  # features that some records have


@dataclass(frozen=True)
class ShardPlan:
  shards: tuple[Shard, ...]
  skipped: tuple[tuple[str, str], ...]  # rows that are no samples at all
  source: str  # digest of the file of samples


def load(
  options: Options, announce: Callable[[str], object] | None = None
) -> tuple[list[Sample], list[tuple[str, str]]]:
  """The samples, and the errors of the rows that are not samples.

  Args:
    options: name the file and its layout.
    announce: called with one line on what was recognised.

  Raises:
    UserError: the first bad row, unless they are to be skipped.
  """
  skipped: list[tuple[str, str]] = []
  on_bad = None
  if options.on_bad_sample == "skip":
    # By name: the folder is the same wherever the file lies.
    name = Path(options.pairs).name
    on_bad = lambda error: skipped.append(
      ("", str(error).replace(options.pairs, name))
    )
  samples = read_samples(options.pairs, on_bad, options.layout, announce)
  if not samples:
    raise UserError(f"{options.pairs}: the file holds no usable sample")
  if options.pairs_per_row > 1:
    count = len(samples)
    samples = group(samples, options.pairs_per_row, functools.cache(digest))
    if announce is not None:
      announce(f"{count:,} samples in {len(samples):,} rows")
  if announce is not None and (
    told := sum(s.system is not None for s in samples)
  ):
    announce(
      f"{told:,} samples have a system prompt of their own: training uses it "
      "if the template has a place for it"
    )
  return samples, skipped


def source_digest(path: str) -> str:
  """SHA-256 of a file, of all tables of a folder; UserError where one cannot
  be read."""
  digests = []
  for part in container_files(path):
    try:
      with open(part, "rb") as file:
        digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
      raise UserError(f"{part}: {error.strerror}") from error
  if len(digests) == 1:
    return digests[0]
  return hashlib.sha256("".join(digests).encode()).hexdigest()


def digest(picture: Picture) -> bytes:
  """What stands for a picture's content; a bad one is reported later on."""
  try:
    data = picture.read()
  except UserError:
    data = b"unreadable\0" + picture.name.encode()
  return hashlib.blake2b(data, digest_size=16).digest()


def to_digest(samples: Iterable[Sample], options: Options) -> list[Picture]:
  """Pictures whose content decides the split: none without a second split.

  In the order of the samples: a table is read once from its start.
  """
  if not options.val_fraction:
    return []
  return list(dict.fromkeys(p for sample in samples for p in sample.images))


def digests(
  samples: Sequence[Sample], options: Options
) -> dict[Picture, bytes]:
  pictures = to_digest(samples, options)
  # Reading and hashing both run without Python's lock.
  with ThreadPoolExecutor(4) as pool:
    return dict(zip(pictures, pool.map(digest, pictures), strict=True))


def _groups(
  samples: Sequence[Sample], contents: Mapping[Picture, bytes]
) -> list[bytes]:
  """One key per sample; samples that share a picture share the key.

  Samples with several pictures tie those together, so that no chain of shared
  pictures leads from one split into the other.
  """
  parent: dict[bytes, bytes] = {}

  def find(key: bytes) -> bytes:
    while (up := parent.setdefault(key, key)) != key:
      parent[key] = parent[up]
      key = up
    return key

  def keys(sample: Sample) -> list[bytes]:
    if sample.images:
      return [contents[picture] for picture in sample.images]
    return [b"text\0" + sample.id.encode()]

  for sample in samples:
    first, *rest = map(find, keys(sample))
    for other in rest:
      # The smaller key leads, so the order of the samples does not matter.
      low, high = sorted((find(first), other))
      parent[high] = low
  return [find(keys(sample)[0]) for sample in samples]


def _uniform(seed: int, key: bytes) -> float:
  """A number in [0, 1) that is the same everywhere for the same key."""
  text = str(seed).encode() + b"\0" + key
  value = hashlib.blake2b(text, digest_size=8, person=b"povid-split").digest()
  return int.from_bytes(value, "little") / 2**64


def split(
  samples: Sequence[Sample],
  options: Options,
  contents: Mapping[Picture, bytes],
) -> dict[str, list[Sample]]:
  """The samples of each split, in the order in which they were read."""
  if not options.val_fraction:
    return {options.split: list(samples)}
  out: dict[str, list[Sample]] = {options.split: [], VALIDATION: []}
  keys = _groups(samples, contents)
  held = _held(set(keys), options)
  for sample, key in zip(samples, keys, strict=True):
    out[VALIDATION if key in held else options.split].append(sample)
  return {name: part for name, part in out.items() if part}


def _held(groups: set[bytes], options: Options) -> set[bytes]:
  """The groups for validation: at least one, but never all of them."""
  ranked = sorted((_uniform(options.seed, key), key) for key in groups)
  count = sum(value < options.val_fraction for value, _ in ranked)
  most = len(ranked) - 1
  return {key for _, key in ranked[: min(max(count, 1), most)]}


def _num_shards(count: int, total: int, wanted: int | None) -> int:
  """Shards of a split that holds `count` of `total` samples."""
  if wanted is None:
    wanted = max(8, math.ceil(total / RECORDS_PER_SHARD))
  return max(1, min(count, round(wanted * count / total)))


def make_plan(
  samples: Sequence[Sample],
  skipped: Sequence[tuple[str, str]],
  options: Options,
  contents: Mapping[Picture, bytes],
) -> ShardPlan:
  """Cuts each split into runs of samples of nearly equal length."""
  parts = split(samples, options, contents)
  main = len(parts.get(options.split, ())) or len(samples)
  shards = []
  for name, part in parts.items():
    count = _num_shards(len(part), main, options.shards)
    edges = [len(part) * i // count for i in range(count + 1)]
    shards += [
      Shard(name, i, count, tuple(part[edges[i] : edges[i + 1]]))
      for i in range(count)
    ]
  source = source_digest(options.pairs)
  return ShardPlan(tuple(shards), tuple(skipped), source)


def write_shard(
  shard: Shard,
  options: Options,
  path: str | Path,
  tick: Callable[[], object] = lambda: None,
) -> Written:
  """Writes one shard file.

  Args:
    shard: what to write.
    options: as everywhere.
    path: the file.
    tick: called after each sample; may raise to stop.

  Raises:
    UserError: the first bad sample, unless they are to be skipped.
  """
  skipped = []
  records = num_bytes = noisy = 0
  held: frozenset[str] = frozenset()
  with RecordWriter(path) as writer:
    for sample in shard.samples:
      try:
        record = to_record(sample, options)
      except UserError as error:
        if options.on_bad_sample != "skip":
          where = f"{options.pairs}, id {sample.id[:80]!a}"
          raise UserError(f"{where}: {error}") from error
        skipped.append((sample.id, str(error)))
      else:
        data = encode(record)
        writer.write(data)
        records += 1
        num_bytes += len(data)
        noisy += record.image_noisy is not None
        held |= optional(record)
      tick()
  return Written(
    shard.split, shard.index, records, num_bytes, noisy, tuple(skipped), held
  )


def settings(options: Options) -> dict:
  """What the bytes depend on besides the input; the same on every machine."""
  out = asdict(options)
  del out["image_dir"]
  for name in ("format", "columns"):  # absent in folders made before
    if out[name] is None:
      del out[name]
  if options.pairs_per_row == 1:
    del out["pairs_per_row"]
  if not options.store_noisy:
    del out["noise_step"], out["overflow"]
  return out | {"pairs": Path(options.pairs).name}


def summarise(
  written: Sequence[Written], plan: ShardPlan
) -> dict[str, metadata.Split]:
  """Splits in the form that the metadata wants.

  Raises:
    UserError: no record was written.
  """
  splits: dict[str, metadata.Split] = {}
  for name in sorted({part.split for part in written}):
    parts = [part for part in written if part.split == name]
    lengths = tuple(part.records for part in parts)
    splits[name] = metadata.Split(lengths, sum(p.num_bytes for p in parts))
  if not any(sum(split.shard_lengths) for split in splits.values()):
    bad = [row for part in written for row in part.skipped]
    _, reason = (bad + list(plan.skipped) + [("", "")])[0]
    raise UserError(f"every sample was skipped; the first one: {reason}")
  return splits


def finish(
  written: Sequence[Written], plan: ShardPlan, options: Options
) -> dict[str, str]:
  """Name -> text of the small files, dataset_info.json last."""
  written = sorted(written, key=lambda part: (part.split, part.index))
  splits = summarise(written, plan)
  bad = [*plan.skipped, *(row for part in written for row in part.skipped)]
  facts = settings(options) | {
    "pairs_sha256": plan.source,
    "records": {n: sum(s.shard_lengths) for n, s in splits.items()},
    "noisy_stored": sum(part.noisy for part in written),
    "skipped": len(bad),
  }
  files = {SETTINGS_FILE: json.dumps(facts, indent=2) + "\n"}
  if bad:
    lines = [json.dumps({"id": id, "reason": reason}) for id, reason in bad]
    files[SKIPPED_FILE] = "\n".join(lines) + "\n"
  held = frozenset[str]().union(*(part.optional for part in written))
  return files | metadata.dumps(splits, held)
