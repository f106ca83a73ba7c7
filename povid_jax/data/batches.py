"""From records to batches: one plan of all steps, read in parallel by grain.

The plan is a function of (data, seed) alone: which samples each step sees does
not depend on hosts, devices or workers, and step i can be asked for directly,
so a run resumes at exactly the next record.
"""

import dataclasses
import functools
import json
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
from PIL import Image

from povid_jax import files
from povid_jax.data import batch as batch_lib
from povid_jax.data import fill
from povid_jax.data import noise as noise_lib
from povid_jax.data.batch import FILLER, Batch, Logps
from povid_jax.data.image import open_image
from povid_jax.data.layout import Extent, check_noisy
from povid_jax.data.lengths import Buckets, TextSpec, encode_record
from povid_jax.data.records import Record, Records
from povid_jax.data.tokenizer import Tokenizer
from povid_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class BatchRows:
  """The records in the rows of one step."""

  epoch: int
  prefix: int  # P
  branch: int  # C
  rows: tuple[int, ...]  # sample indices, FILLER where there is none left


class BatchOrder:
  """Random access to every step: `len(plan)`, `plan[i] -> BatchRows`.

  Each epoch is a new permutation. Samples meet others of their bucket; what
  is left of all buckets at the end of an epoch shares rows of the largest
  lengths, so that every sample is seen exactly once per epoch.

  Args:
    num_steps: None: one epoch.
  """

  def __init__(
    self,
    buckets: Buckets,
    batch_size: int,
    seed: int,
    num_steps: int | None = None,
  ):
    self._buckets, self._batch_size = buckets, batch_size
    self._seed = seed
    # Two epochs are cached, because reading ahead crosses from one to the next.
    self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)
    self.steps_per_epoch = len(self._epoch(0))
    self._num_steps = self.steps_per_epoch if num_steps is None else num_steps

  def __len__(self) -> int:
    return self._num_steps

  def __getstate__(self) -> dict[str, Any]:
    # a cached function cannot be pickled, and workers get the plan by pickle
    return {k: v for k, v in self.__dict__.items() if k != "_epoch"}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)

  def __getitem__(self, index: int) -> BatchRows:
    if not 0 <= index < self._num_steps:
      raise IndexError(f"step {index} of {self._num_steps}")
    epoch, number = divmod(int(index), self.steps_per_epoch)
    return self._epoch(epoch)[number]

  def _make_epoch(self, epoch: int) -> list[BatchRows]:
    # seeded by the epoch, so that any epoch is made without the ones before
    rng = np.random.Generator(np.random.Philox([self._seed, epoch]))
    buckets, size = self._buckets, self._batch_size
    order = rng.permutation(buckets.kept)
    steps, left = [], []
    for p, c in np.unique(buckets.of[buckets.kept], axis=0):
      members = order[(buckets.of[order] == (p, c)).all(axis=1)]
      whole = len(members) // size * size
      left.extend(members[whole:])
      lengths = (buckets.prefix[p], buckets.branch[c])
      for rows in members[:whole].reshape(-1, size):
        steps.append(BatchRows(epoch, *lengths, tuple(rows.tolist())))
    for start in range(0, len(left), size):
      rows = [int(i) for i in left[start : start + size]]
      rows += [FILLER] * (size - len(rows))
      longest = (buckets.prefix[-1], buckets.branch[-1])
      steps.append(BatchRows(epoch, *longest, tuple(rows)))
    # otherwise an epoch would go from the shortest samples to the longest
    return [steps[i] for i in rng.permutation(len(steps))]


@dataclasses.dataclass(frozen=True)
class NoiseSpec:
  """How the distorted picture of a sample is made.

  Attributes:
    step: diffusion step.
    overflow: wrap | clip.
    site: image (raw picture, before pad and resize) | pixels (on the device,
      from `noise_seed`).
    seed: of the run.
    per_epoch: a new draw each epoch.
  """

  step: int
  overflow: noise_lib.Overflow
  site: str
  seed: int
  per_epoch: bool


@dataclasses.dataclass(frozen=True)
class Loader:
  """Makes the arrays of a step, those of this process.

  Attributes:
    source: the records.
    tokenizer, text: see `encode_record`.
    rooms: P -> what the images of a row may take.
    noise: None where no objective asks for a distorted picture.
    local_rows: the rows of a global batch that this process loads.
    skipped: None to raise on a bad sample; else a file to which its id and
      reason go, its row becoming a filler.
    advice: end of that error: what can be done about it.
    reference: cached log-probs of every sample, arrays [n, ...], or None.
    weighted: whether batches hold weights of tokens.
  """

  source: Records
  tokenizer: Tokenizer
  text: TextSpec
  rooms: Mapping[int, Extent]
  noise: NoiseSpec | None
  local_rows: tuple[int, ...]
  skipped: Path | None = None
  advice: str = ""
  reference: Logps | None = None
  weighted: bool = False

  def __call__(self, step: BatchRows) -> Batch:
    return batch_lib.stack(
      [self._row(step, step.rows[r]) for r in self.local_rows]
    )

  def _row(self, step: BatchRows, index: int) -> Batch:
    """One row [...] of a batch."""
    row = self._empty(step)
    if index == FILLER:
      return row
    name = ""  # the id of a damaged record is not known
    try:
      record = self.source[index]
      name = record.id
      row = self._fill(row, record, step)
      row = row._replace(reference=self._cached(index))
    except UserError as error:
      if self.skipped is None:
        where = f"record {index} ({name!r})"
        raise UserError(f"{where}: {error}{self.advice}") from error
      note_skipped(self.skipped, index, name, error)
      # a new row: `_fill` may have written into the first one before it failed
      return self._empty(step)._replace(skipped=np.int32(1))
    return row._replace(index=np.int32(index))

  def _cached(self, index: int) -> Logps | None:
    """The reference's log-probs of one sample."""
    if self.reference is None:
      return None
    found: Logps = jax.tree.map(lambda values: values[index], self.reference)
    for name, value in found._asdict().items():
      if value is not None and np.isnan(value).any():
        raise UserError(
          f"the reference cache has no log-prob {name!r} for this sample; "
          "remove the cache folder to compute it again"
        )
    return found

  def _empty(self, step: BatchRows) -> Batch:
    cached = self.reference._asdict() if self.reference else {}
    described = batch_lib.describe(
      prefix=step.prefix,
      branch=step.branch,
      branches=self.text.num_branches,
      pictures=self.text.layout.describe(self.rooms[step.prefix]),
      noise=self.noise.site if self.noise else None,
      weighted=self.weighted,
      position_axes=self.text.layout.position_axes,
      reference=[name for name, x in cached.items() if x is not None],
      chosen=self.text.num_chosen,
    )
    return batch_lib.filler(described)

  def _fill(self, row: Batch, record: Record, step: BatchRows) -> Batch:
    encoded = encode_record(record, self.tokenizer, self.text)
    pictures = [
      open_image(data, f"image {i}") for i, data in enumerate(record.images)
    ]
    noisy = None
    if self.noise is not None and self.noise.site == "pixels":
      # JAX has no 64-bit numbers by default; on the host Philox takes all bits
      seed = self._seed(self.noise, record, step) & 0xFFFFFFFF
      row = row._replace(noise_seed=np.uint32(seed))
    elif self.noise is not None:
      noisy = self._noisy(self.noise, record, pictures, step)
    room = self.rooms[step.prefix]
    return fill.into(row, encoded, self.text.layout, pictures, room, noisy)

  def _seed(self, noise: NoiseSpec, record: Record, step: BatchRows) -> int:
    drawn = step.epoch if noise.per_epoch else None
    return noise_lib.seed_for(noise.seed, record.id, drawn)

  def _noisy(
    self,
    noise: NoiseSpec,
    record: Record,
    pictures: list[Image.Image],
    step: BatchRows,
  ) -> list[Image.Image]:
    """The noisy pictures. Noise is added before a picture is cut into tiles, so
    that all tiles of a picture show the same noise and need as much room as the
    clean ones.
    """
    if record.image_noisy is not None and not noise.per_epoch:
      if record.noise_step != noise.step:
        raise UserError(
          f"the stored noisy picture has step {record.noise_step}, the config "
          f"asks for noise.step={noise.step}"
        )
      held = getattr(self.source, "noisy_overflow", None)
      # A seed of 0: the picture came with the sample, and its overflow is not
      # known.
      if record.noise_seed and held not in (None, noise.overflow):
        raise UserError(
          f"the stored noisy picture has overflow {held!r}, the config asks "
          f"for noise.overflow={noise.overflow!r}; write the records again, "
          "or set config.noise.per_epoch=True"
        )
      stored = open_image(record.image_noisy, "image_noisy")
      check_noisy(self.text.layout, pictures[0].size, stored.size)
      return [stored, *pictures[1:]]  # the others as they are
    seed = self._seed(noise, record, step)
    return noise_lib.distort_all(pictures, noise.step, seed, noise.overflow)


def note_skipped(path: Path, index: int, name: str, error: UserError) -> None:
  """Appends a skipped sample and the reason to a file of JSON lines."""
  reason = {"index": index, "id": name, "reason": str(error)}
  files.ensure_parent(path)
  with open(path, "a", encoding="utf-8") as file:
    file.write(json.dumps(reason) + "\n")


def pipeline(
  plan: BatchOrder, loader: Loader, workers: int = 0, start: int = 0
) -> grain.DatasetIterator:
  """Batches of a plan in order.

  Args:
    workers: processes that read ahead; 0 reads ahead in threads here.
    start: the first step; those before it are not read.
  """
  dataset = grain.MapDataset.source(plan).slice(slice(start, None)).map(loader)
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
  iterable = dataset.to_iter_dataset(options)
  if workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # grain asks absl's; ours are argparse's
    # Batches go through pipes: containers often have only 64 MB of shared
    # memory, and Python prints warnings about segments that are left at the
    # end.
    piped = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
    iterable = grain.experimental.WithOptionsIterDataset(iterable, piped)
    iterable = iterable.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=workers),
      worker_init_fn=_end_with_parent,
    )
  return iter(iterable)


def _end_with_parent(worker: int, count: int) -> None:
  """Ends a reading process when the process that started it is killed."""
  del worker, count
  parent = multiprocessing.parent_process()
  if parent is None:
    return

  def watch() -> None:
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)  # no process is left that could read the batches or an error

  threading.Thread(target=watch, daemon=True).start()


def local_rows(
  shards: Sequence[slice], microbatch: int, grad_accum: int
) -> tuple[int, ...]:
  """Rows of a global batch that this process holds.

  Args:
    shards: the slices of a microbatch on this process's devices.
    microbatch: rows of one microbatch, all processes together.
    grad_accum: microbatches per step.

  Returns:
    Row numbers in the order of [grad_accum, local rows].
  """
  # a set, because devices that share a microbatch list the same rows
  mine = sorted({r for s in shards for r in range(*s.indices(microbatch))})
  return tuple(a * microbatch + r for a in range(grad_accum) for r in mine)
