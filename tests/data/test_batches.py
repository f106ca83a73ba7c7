"""The plan of all steps and the batches that processes make of it."""

import collections
import dataclasses
import json
import os
import pickle
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from povid_jax.data import batches, lengths, noise
from povid_jax.data.batch import Logps
from povid_jax.data.batches import FILLER, BatchOrder, Loader, NoiseSpec
from povid_jax.data.image import open_image, preprocess
from povid_jax.data.layout import Extent, Square
from povid_jax.data.records import RecordSource
from povid_jax.data.tokenizer import load_tokenizer
from povid_jax.errors import UserError
from tests import small_tokenizer, small_world

TEXT = lengths.TextSpec("short", Square(28, 4), 2)
NOISE = NoiseSpec(500, "wrap", "image", seed=3, per_epoch=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp("words")
  return load_tokenizer(small_tokenizer.write(folder / "tokenizer"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  root = tmp_path_factory.mktemp("batches")
  return RecordSource(small_world.data_folder(root, 22, shards=3))


@pytest.fixture(scope="module")
def buckets(source, tokenizer):
  measured = lengths.measure(source, tokenizer, TEXT)
  return lengths.assign(measured, count=3, multiple=4, num_branches=2)


class _Rooms(dict):
  """The same room for every length of prefix."""

  def __init__(self, pictures):
    super().__init__()
    self.pictures = pictures

  def __missing__(self, prefix):
    return Extent(self.pictures, 0)


def _loader(source, tokenizer, rows, **changes):
  usual = Loader(
    source=source,
    tokenizer=tokenizer,
    text=TEXT,
    rooms=_Rooms(1),
    noise=None,
    local_rows=tuple(rows),
  )
  return dataclasses.replace(usual, **changes)


def _epochs(plan):
  out = collections.defaultdict(list)
  for step in plan:
    out[step.epoch] += [i for i in step.rows if i != FILLER]
  return out


def test_every_sample_once_in_every_epoch(buckets):
  assert len(buckets.prefix) > 1 and len(buckets.branch) > 1
  one = BatchOrder(buckets, 4, seed=0, num_steps=1)
  plan = BatchOrder(buckets, 4, 0, 3 * one.steps_per_epoch)
  epochs = _epochs(plan)
  assert [sorted(rows) for rows in epochs.values()] == [list(range(22))] * 3
  assert epochs[0] != epochs[1]
  assert one.steps_per_epoch == 6  # 22 samples by 4, at most one not full
  for step in plan:
    assert len(step.rows) == 4
    for i in step.rows:
      if i != FILLER:
        p, c = buckets.of[i]
        assert buckets.prefix[p] <= step.prefix
        assert buckets.branch[c] <= step.branch
  # most steps are as short as their samples allow
  assert len({(step.prefix, step.branch) for step in plan}) > 1


def test_a_plan_is_a_function_of_data_and_seed(buckets):
  plan, again = (BatchOrder(buckets, 4, 5, 20) for _ in range(2))
  assert list(plan) == list(again) == list(pickle.loads(pickle.dumps(plan)))
  assert plan[17] == BatchOrder(buckets, 4, 5, 18)[17]  # asked for directly
  assert list(BatchOrder(buckets, 4, 6, 20)) != list(plan)


def test_left_out_samples_are_in_no_step(source, tokenizer):
  measured = lengths.measure(source, tokenizer, TEXT)
  most = int(np.median(measured.prefix))
  some = lengths.assign(
    measured, count=2, multiple=4, num_branches=2, max_prefix=most
  )
  assert 0 < len(some.kept) < 22
  plan = BatchOrder(some, 4, 0, BatchOrder(some, 4, 0, 1).steps_per_epoch)
  assert sorted(_epochs(plan)[0]) == some.kept.tolist()


@pytest.mark.parametrize(("processes", "grad_accum"), [(2, 1), (4, 2), (1, 2)])
def test_processes_together_hold_the_global_batch(
  processes, grad_accum, buckets, source, tokenizer
):
  batch, micro = 8, 8 // grad_accum
  step = BatchOrder(buckets, batch, 0, 1)[0]
  whole = _loader(source, tokenizer, range(batch))(step)
  share = micro // processes
  parts = []
  for p in range(processes):
    # every process has two devices (or one that holds all of its rows)
    cut = [
      slice(p * share + k, p * share + k + 1) for k in reversed(range(share))
    ]
    rows = batches.local_rows(cut, micro, grad_accum)
    parts.append(_loader(source, tokenizer, rows)(step))
  cut = lambda x: x.reshape(grad_accum, -1, *x.shape[1:])
  joined = jax.tree.map(
    lambda *of: np.concatenate([cut(x) for x in of], axis=1), *parts
  )
  jax.tree.map(np.testing.assert_array_equal, joined, jax.tree.map(cut, whole))


def test_local_rows():
  assert batches.local_rows([slice(2, 4), slice(0, 1)], 4, 2) == (
    0, 2, 3, 4, 6, 7
  )  # fmt: skip
  assert batches.local_rows([slice(None)], 2, 1) == (0, 1)


def test_rows_hold_what_the_records_say(buckets, source, tokenizer):
  step = BatchOrder(buckets, 4, 0, 1)[0]
  index = step.rows[0]
  batch = _loader(source, tokenizer, range(4))(step)
  record = source[index]
  encoded = lengths.encode_record(record, tokenizer, TEXT)
  n = len(encoded.prefix_ids)
  assert batch.prefix_ids.shape == (4, step.prefix)
  assert batch.branch_ids.shape == (4, 2, step.branch)
  assert (batch.prefix_len[0], batch.index[0]) == (n, index)
  np.testing.assert_array_equal(batch.prefix_ids[0, :n], encoded.prefix_ids)
  assert not batch.prefix_ids[0, n:].any()
  for b, ids in enumerate(encoded.branch_ids):
    np.testing.assert_array_equal(batch.branch_ids[0, b, : len(ids)], ids)
    assert batch.loss_mask[0, b].sum() == encoded.loss_mask[b].sum()
  want = preprocess(open_image(record.images[0]), 28)
  np.testing.assert_array_equal(batch.images[0, 0], want)


def test_fillers_and_extra_arrays(buckets, source, tokenizer):
  cached = Logps(
    np.arange(22, dtype=np.float32), np.arange(22, dtype=np.float32)[:, None]
  )
  load = _loader(source, tokenizer, range(3), reference=cached)
  batch = load(batches.BatchRows(0, buckets.prefix[-1], 64, (5, FILLER, 21)))
  assert batch.reference.chosen.tolist() == [5, 0, 21]
  assert batch.reference.rejected.tolist() == [[5], [0], [21]]
  assert batch.reference.noise is None
  assert batch.index.tolist() == [5, FILLER, 21]
  assert batch.prefix_len[1] == 1 and not batch.loss_mask[1].any()


def test_noise_is_a_function_of_seed_sample_and_epoch(
  buckets, source, tokenizer
):
  longest = (buckets.prefix[-1], buckets.branch[-1])
  at = lambda epoch, *rows: batches.BatchRows(epoch, *longest, rows)
  load = _loader(source, tokenizer, (0, 1), noise=NOISE)
  first, again, other = load(at(0, 3, 4)), load(at(0, 4, 3)), load(at(1, 3, 4))
  noisy = first.images_noisy
  np.testing.assert_array_equal(again.images_noisy, noisy[::-1])
  assert (other.images_noisy != noisy).mean() > 0.5
  fixed = dataclasses.replace(NOISE, per_epoch=False)
  still = _loader(source, tokenizer, (0, 1), noise=fixed)
  np.testing.assert_array_equal(
    still(at(0, 3, 4)).images_noisy, still(at(7, 3, 4)).images_noisy
  )
  record = source[3]
  seed = noise.seed_for(3, record.id, 0)
  picture = np.asarray(open_image(record.images[0]))
  raw = noise.distort(picture, 500, seed, "wrap")
  from PIL import Image

  np.testing.assert_array_equal(
    noisy[0, 0], preprocess(Image.fromarray(raw), 28)
  )


def test_stored_noisy_pictures(tokenizer, tmp_path):
  made = [
    small_world.record(0, image_noisy=small_world.png(50), noise_step=500)
  ]
  source = RecordSource(small_world.data_folder(tmp_path, made, shards=1))
  fixed = dataclasses.replace(NOISE, per_epoch=False)
  step = batches.BatchRows(0, 64, 32, (0,))
  batch = _loader(source, tokenizer, (0,), noise=fixed)(step)
  np.testing.assert_array_equal(
    batch.images_noisy[0, 0], preprocess(small_world.picture(50), 28)
  )
  other = dataclasses.replace(fixed, step=100)
  with pytest.raises(UserError, match="has step 500.* noise.step=100"):
    _loader(source, tokenizer, (0,), noise=other)(step)


@pytest.mark.parametrize(
  ("seed", "stored", "refused"),
  [(7, "clip", True), (7, "wrap", False), (0, "clip", False)],
)
def test_stored_noise_of_another_overflow(
  tokenizer, tmp_path, seed, stored, refused
):
  """The folder says how `write` made its noise; seed 0: the sample's own."""
  made = small_world.record(
    0, image_noisy=small_world.png(50), noise_step=500, noise_seed=seed
  )
  folder = small_world.data_folder(tmp_path, [made], shards=1)
  facts = {"store_noisy": True, "overflow": stored}
  (folder / "povid.json").write_text(json.dumps(facts))
  fixed = dataclasses.replace(NOISE, per_epoch=False)
  loader = _loader(RecordSource(folder), tokenizer, (0,), noise=fixed)
  step = batches.BatchRows(0, 64, 32, (0,))
  if refused:
    with pytest.raises(UserError, match="overflow 'clip'.*overflow='wrap'"):
      loader(step)
  else:
    loader(step)


def test_a_stored_noisy_picture_is_of_the_first_of_two(tokenizer, tmp_path):
  two = small_world.record(
    0,
    images=(small_world.png(1), small_world.png(2)),
    prompt_turns=("<image>\n<image>\ncat or dog?",),
    image_noisy=small_world.png(50),
    noise_step=500,
  )
  source = RecordSource(small_world.data_folder(tmp_path, [two], shards=1))
  fixed = dataclasses.replace(NOISE, per_epoch=False)
  step = batches.BatchRows(0, 64, 32, (0,))
  loader = _loader(source, tokenizer, (0,), noise=fixed, rooms=_Rooms(2))
  noisy = loader(step).images_noisy[0]
  for i, number in enumerate((50, 2)):
    want = preprocess(small_world.picture(number), 28)
    np.testing.assert_array_equal(noisy[i], want)


def test_noise_at_the_pixels_is_a_seed(source, tokenizer):
  pixels = dataclasses.replace(NOISE, site="pixels")
  batch = _loader(source, tokenizer, (0, 1), noise=pixels)(
    batches.BatchRows(0, 64, 32, (1, FILLER))
  )
  assert batch.images_noisy is None
  assert batch.noise_seed.tolist() == [
    noise.seed_for(3, source[1].id, 0) & 0xFFFFFFFF, 0
  ]  # fmt: skip


@pytest.fixture
def damaged(tmp_path):
  """Pairs of which one has a cut picture and one a wrong byte in the file."""
  cut = small_world.record(1, images=(small_world.png(1)[:90],))
  made = [small_world.record(0), cut, small_world.record(2)]
  folder = small_world.data_folder(tmp_path / "data", made, shards=1)
  (shard,) = folder.glob("*.tfrecord*-of-00001")
  data = bytearray(shard.read_bytes())
  data[data.rindex(b"r2")] ^= 1
  shard.write_bytes(data)
  return RecordSource(folder)


def test_bad_samples_are_named(damaged, tokenizer):
  load = _loader(damaged, tokenizer, (0,))
  step = lambda i: batches.BatchRows(0, 64, 32, (i,))
  with pytest.raises(UserError, match=r"record 1 \('r1'\): image 0: broken"):
    load(step(1))
  with pytest.raises(UserError, match="record 2 .*wrong CRC"):
    load(step(2))


def test_bad_samples_are_skipped_and_noted(damaged, tokenizer, tmp_path):
  notes = tmp_path / "run/skipped.jsonl"
  load = _loader(damaged, tokenizer, range(3), skipped=notes)
  batch = load(batches.BatchRows(0, 64, 32, (0, 1, 2)))
  assert batch.skipped.tolist() == [0, 1, 1]
  assert batch.index.tolist() == [0, FILLER, FILLER]
  assert not batch.images[1:].any() and not batch.loss_mask[1:].any()
  rows = [json.loads(line) for line in notes.read_text().splitlines()]
  assert [(r["index"], r["id"]) for r in rows] == [(1, "r1"), (2, "")]
  assert "broken" in rows[0]["reason"] and "wrong CRC" in rows[1]["reason"]


def _equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_pipeline_starts_at_any_record(buckets, source, tokenizer):
  plan = BatchOrder(buckets, 4, 0, 9)
  load = _loader(source, tokenizer, range(4), noise=NOISE)
  whole = list(batches.pipeline(plan, load))
  for step, batch in zip(plan, whole, strict=True):
    assert batch.index.tolist() == list(step.rows)
  for start in (5, 8, 9):
    rest = list(batches.pipeline(plan, load, start=start))
    for one, other in zip(rest, whole[start:], strict=True):
      _equal(one, other)


@pytest.mark.slow
def test_workers_change_nothing(buckets, source, tokenizer):
  plan = BatchOrder(buckets, 4, 0, 7)
  load = _loader(source, tokenizer, range(4), noise=NOISE)
  here = list(batches.pipeline(plan, load))
  for start in (0, 3):
    there = batches.pipeline(plan, load, workers=2, start=start)
    for one, other in zip(there, here[start:], strict=True):
      _equal(one, other)


PARENT = """
import multiprocessing, sys, time
from povid_jax.data import batches

def child(ready):
  batches._end_with_parent(0, 1)
  ready.set()
  time.sleep(100)

if __name__ == "__main__":
  context = multiprocessing.get_context("spawn")
  ready = context.Event()
  process = context.Process(target=child, args=(ready,))
  process.start()
  ready.wait()
  print(process.pid, flush=True)
  time.sleep(100)
"""


def test_a_reading_process_ends_with_the_one_that_started_it(tmp_path):
  """Also where that one is killed and can tell nobody."""
  script = tmp_path / "parent.py"
  script.write_text(PARENT)
  parent = subprocess.Popen(
    [sys.executable, str(script)],
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": os.getcwd()},
  )
  child = int(parent.stdout.readline())
  assert os.path.exists(f"/proc/{child}")
  parent.kill()
  parent.wait()
  parent.stdout.close()
  end = time.monotonic() + 30
  while _runs(child) and time.monotonic() < end:
    time.sleep(0.05)
  assert not _runs(child)


def _runs(pid):
  try:
    with open(f"/proc/{pid}/stat") as file:
      return file.read().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False
