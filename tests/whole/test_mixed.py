"""Runs with contexts, weights, several rejected answers and a carried mean."""

import json
import os
import signal

import numpy as np
import pytest

from povid_jax import train
from povid_jax.training import loop
from tests import small_world

pytestmark = pytest.mark.slow
STEPS = 6
FIELDS = {
  "objective.name": "mpo",
  "steps": STEPS,
  "lr": 3e-2,
  "batch_size": 8,
  "checkpoint.every": 2,
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
  root = tmp_path_factory.mktemp("mixed")
  records = [*small_world.odd_records(), *small_world.rich_records()]
  return small_world.folders(root, records)


def _config(world, **fields):
  fields = {**FIELDS, **fields}
  return small_world.config(world / "model", world / "data", fields)


def _rows(workdir):
  lines = (workdir / "metrics/train.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def whole(mixed, tmp_path_factory):
  """The rows of a run on one device that nothing interrupts."""
  workdir = tmp_path_factory.mktemp("whole")
  with small_world.one_device():
    train.train_and_evaluate(_config(mixed), workdir)
  rows = _rows(workdir)
  assert rows[0]["shift"] == 0
  # the shift is the mean of the rewards of the steps before
  rewards = [(r["rewards/chosen"] + r["rewards/rejected"]) / 2 for r in rows]
  for number, row in enumerate(rows[1:], start=1):
    assert row["shift"] == pytest.approx(
      np.mean(rewards[:number]), rel=1e-4, abs=1e-7
    )
  assert abs(rows[-1]["shift"]) > 1e-3
  return rows


def test_stopped_and_resumed_to_the_bit(mixed, whole, monkeypatch, tmp_path):
  log = loop.Loop._log

  def log_and_stop(self, writer, step, *rest):
    if step == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return log(self, writer, step, *rest)

  with small_world.one_device():
    with monkeypatch.context() as patch:
      patch.setattr(loop.Loop, "_log", log_and_stop)
      state = train.train_and_evaluate(_config(mixed), tmp_path)
    assert 2 < int(state.step) < STEPS
    train.train_and_evaluate(_config(mixed), tmp_path)
  for key in ("loss", "shift", "margin/rejected"):
    assert [r[key] for r in _rows(tmp_path)] == [r[key] for r in whole]


def test_eight_devices_are_one(mixed, whole, tmp_path):
  train.train_and_evaluate(_config(mixed), tmp_path)
  _like(_rows(tmp_path), whole, 2e-4)


def test_microbatches_are_one_batch(mixed, whole, tmp_path):
  with small_world.one_device():
    train.train_and_evaluate(_config(mixed, grad_accum=4), tmp_path)
  _like(_rows(tmp_path), whole, 2e-4)


def test_cached_is_online(mixed, whole, tmp_path):
  fields = {"reference": "cached", "reference_cache": str(tmp_path / "cache")}
  with small_world.one_device():
    train.train_and_evaluate(_config(mixed, **fields), tmp_path / "run")
    _like(_rows(tmp_path / "run"), whole, 1e-5)


def _like(rows, wanted, far):
  for row, want in zip(rows, wanted, strict=True):
    for key in ("loss", "shift", "margin/rejected", "tokens/chosen"):
      assert row[key] == pytest.approx(want[key], rel=far, abs=1e-5), key
