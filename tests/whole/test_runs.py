"""Whole runs: stopped, resumed, and with bad input."""

import functools
import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from povid_jax import bounds, train
from povid_jax.data import layout, lengths
from povid_jax.data.records import RecordSource, RecordWriter, shard_name
from povid_jax.data.tokenizer import load_tokenizer
from povid_jax.errors import UserError
from povid_jax.training import loop, metrics
from tests import small_world
from tests.whole import small_run


@pytest.fixture(scope="module")
def whole_run(world, tmp_path_factory, compiled_once):
  """The directory of a run that nothing stopped."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  with small_world.one_device():
    state = train.train_and_evaluate(small_run.config(world), workdir)
  assert int(state.step) == small_run.STEPS
  return workdir


@pytest.fixture(scope="module")
def whole(whole_run):
  """Its losses."""
  losses = small_world.losses(whole_run)
  assert len(set(losses)) == small_run.STEPS  # every step learns
  return losses


def _stop_at(monkeypatch, number):
  """Sends this process a SIGTERM while step `number` is logged."""
  log = loop.Loop._log

  def log_and_stop(self, writer, step, *rest):
    if step == number:
      os.kill(os.getpid(), signal.SIGTERM)
    return log(self, writer, step, *rest)

  monkeypatch.setattr(loop.Loop, "_log", log_and_stop)


def test_sigterm_saves_and_the_same_command_continues(
  world, whole, one_device, monkeypatch, tmp_path, capsys
):
  config = small_world.config_file(tmp_path / "c.py", small_run.config(world))
  argv = [f"--config={config}", f"--workdir={tmp_path}/run"]
  with monkeypatch.context() as patch:
    _stop_at(patch, 1)
    assert train.main(argv) == 143
  said = capsys.readouterr()
  assert f"of {small_run.STEPS}, checkpoint saved" in said.out
  done = len(small_world.losses(tmp_path / "run"))
  assert 1 < done < small_run.STEPS
  assert train.main(argv) == 0
  said = capsys.readouterr()
  assert f"continuing at step {done}" in said.out
  assert f"done: {small_run.STEPS} steps" in said.out
  assert "WARNING" not in said.err
  assert small_world.losses(tmp_path / "run") == whole
  # a finished run has nothing left to do
  assert train.main(argv) == 0
  assert small_world.losses(tmp_path / "run") == whole


def test_a_run_that_died_between_saves(
  world, whole, one_device, monkeypatch, tmp_path
):
  """Rows after the last checkpoint are made again, to the same numbers."""

  class Died(Exception):
    pass

  config = small_run.config(world, checkpoint__every=2)
  log = loop.Loop._log

  def die(self, writer, step, *rest):
    out = log(self, writer, step, *rest)
    if step == 4:
      raise Died
    return out

  with monkeypatch.context() as patch:
    patch.setattr(loop.Loop, "_log", die)
    with pytest.raises(Died):
      train.train_and_evaluate(config, tmp_path)
  assert len(small_world.losses(tmp_path)) == 5
  names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
  assert names == {"4"}
  train.train_and_evaluate(config, tmp_path)
  assert small_world.losses(tmp_path) == whole


@pytest.mark.slow
def test_fields_that_change_no_number_may_change(
  world, whole, one_device, monkeypatch, tmp_path
):
  with monkeypatch.context() as patch:
    _stop_at(patch, 1)
    train.train_and_evaluate(small_run.config(world), tmp_path)
  with pytest.raises(UserError, match="config.lr=0.01, this one has 0.02"):
    train.train_and_evaluate(small_run.config(world, lr=0.02), tmp_path)
  path = tmp_path / "config.json"
  text = path.read_text()
  described = json.loads(text)
  described["objective"]["hyper"]["loss_type"] = "ipo"  # set no more
  path.write_text(json.dumps(described))
  with pytest.raises(UserError, match="objective.hyper.loss_type='ipo', this"):
    train.train_and_evaluate(small_run.config(world), tmp_path)
  path.write_text(text)
  train.train_and_evaluate(
    small_run.config(world, checkpoint__every=1, checkpoint__keep=2), tmp_path
  )
  assert small_world.losses(tmp_path) == whole
  kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
  assert kept == [small_run.STEPS - 1, small_run.STEPS]


def test_rows_of_the_log(whole_run):
  lines = (whole_run / "metrics/train.jsonl").read_text().splitlines()
  row = json.loads(lines[0])
  assert {
    "step", "loss", "lr", "grad_norm", "padding", "tokens", "epoch",
    "input_wait_seconds", "margin/rejected", "margin/noise", "drift/chosen",
    "noise_differs", "skipped",
  } <= set(row)  # fmt: skip
  assert row["lr"] == pytest.approx(0.01)
  assert 0 <= row["padding"] < 1
  # rates are known once there was a row before
  rates = {"seconds", "pairs_per_s", "tokens_per_s", "input_wait_share"}
  assert rates <= set(json.loads(lines[1]))


BAD = {
  "mesh": ({"mesh.fsdp": 3}, r"fsdp=3.* does not divide 8 devices"),
  "batch": (
    {"batch_size": 6}, "6 pairs do not divide over .* 8 devices: take 8 "
  ),
  "heads": ({"mesh.tensor": 8}, "mesh.tensor=8 does not divide decoder"),
  "accum": ({"grad_accum": 3}, "grad_accum=3 does not divide batch_size=2"),
  "init": ({"init": "/nowhere"}, "no checkpoint at /nowhere"),
  "no init": ({"init": ""}, "config.init is empty"),
  "objective": ({"objective.name": "pvid"}, "pvid.*did you mean 'povid'"),
  "hyper": ({"objective.hyper.betta": 1.0}, "betta.*did you mean 'beta'"),
  "noise": (
    {"noise.step": 1000},
    "noise.step=1000: want a number of at least 0, at most 999",
  ),
  "choice": (
    {"noise.overflow": "wrp"}, "noise.overflow='wrp': want one of wrap, clip"
  ),
  "remat": ({"remat": "some"}, "remat=.some.: want one of"),
  "keep": (
    {"checkpoint.keep": 0, "batch_size": 8},
    "checkpoint.keep=0: want a number of at least 1",
  ),
  "no parameter trained": (
    {"trainable": "decoder/mlp", "batch_size": 8}, "decoder/mlp"
  ),
  "not a regex": ({"trainable": "(", "batch_size": 8}, r"\("),
  "no lora": (
    {"lora.targets": "encoder", "batch_size": 8}, "matches no linear layer"
  ),
  "lora on the head": (
    {"lora.targets": ".", "batch_size": 8}, "matches the head, decoder/lm_head"
  ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_config_that_cannot_work(case, world, tmp_path):
  fields, message = BAD[case]
  config = small_world.config(world / "model", world / "data", fields)
  with pytest.raises(UserError, match=message) as caught:
    train.train_and_evaluate(config, tmp_path)
  assert "\n" not in str(caught.value)


def test_no_records(world, tmp_path):
  with RecordWriter(tmp_path / shard_name("train", 0, 1)):
    pass
  config = small_world.config(
    world / "model", tmp_path, {"batch_size": 8, "steps": 1}
  )
  with pytest.raises(UserError, match="holds no records of the split train"):
    train.train_and_evaluate(config, tmp_path / "run")
  config = small_world.config(world / "model", tmp_path / "x", {})
  with pytest.raises(UserError, match="x"):
    train.train_and_evaluate(config, tmp_path / "run2")


def test_loss_that_is_not_finite(world, one_device, tmp_path, monkeypatch):
  # a rate that is refused, for a loss that overflows after one step
  monkeypatch.setitem(bounds.BOUNDS, "lr", bounds.Bound(above=0))
  fields = {
    "objective.name": "sft", "trainable": "decoder", "lr": 1e38, "steps": 4
  }  # fmt: skip
  make = functools.partial(small_world.config, world / "model", world / "data")
  with pytest.raises(UserError, match="step 1: the loss or a gradient is NaN"):
    train.train_and_evaluate(make(fields), tmp_path / "a")
  state = train.train_and_evaluate(
    make({**fields, "on_nonfinite": "skip"}), tmp_path / "b"
  )
  assert int(state.step) == 4
  lines = (tmp_path / "b/metrics/train.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [row["skipped"] for row in rows] == [0, 1, 2, 3]
  assert [row["loss"] is None for row in rows] == [False, True, True, True]


@pytest.mark.slow
def test_a_model_whose_numbers_are_none(world, one_device, tmp_path):
  """The first step names the model, the reference pass and score the record."""
  weights = small_world.arrays()
  weights["decoder/norm/scale"][3] = np.inf
  model = small_world.model_folder(tmp_path, weights)
  fields = {"objective.name": "dpo", "steps": 2}
  config = small_world.config(model, world / "data", fields)
  with pytest.raises(UserError, match="step 0: .* weights of config.init"):
    train.train_and_evaluate(config, tmp_path / "a")
  config.reference = "cached"
  with pytest.raises(
    UserError, match=r"record 'r\d+': log-prob \w+ of the ref"
  ):
    train.train_and_evaluate(config, tmp_path / "b")
  assert not (tmp_path / "b/reference").exists()


@pytest.mark.slow
def test_samples_longer_than_the_models_positions(world, one_device, tmp_path):
  model = tmp_path / "model"
  shutil.copytree(world / "model", model)
  described = json.loads((model / "model.json").read_text())
  measured = lengths.measure(
    RecordSource(world / "data"),
    load_tokenizer(model / "tokenizer"),
    lengths.TextSpec("short", layout.of(small_world.MODEL), 2),
  )
  tokens = measured.prefix + measured.branch
  limit = int(tokens.max()) - 1
  described["decoder"]["max_positions"] = limit
  (model / "model.json").write_text(json.dumps(described))
  config = small_world.config(model, world / "data", {"steps": 1})
  with pytest.raises(UserError, match=f"model's {limit} positions are fixed"):
    train.train_and_evaluate(config, tmp_path / "a")
  config.data.on_too_long = "drop"
  train.train_and_evaluate(config, tmp_path / "b")
  lines = (tmp_path / "b/too_long.tsv").read_text().splitlines()
  assert len(lines) == (tokens > limit).sum()


@pytest.mark.slow
def test_profiler_trace(monkeypatch, tmp_path):
  """Of so many steps after the first ten, also where the run ends sooner."""
  said = []
  trace = lambda name: lambda *_: said.append(name)
  monkeypatch.setattr(jax.profiler, "start_trace", trace("start"))
  monkeypatch.setattr(jax.profiler, "stop_trace", trace("stop"))
  for steps, last, want in ((2, 20, {14: "start", 16: "stop"}), (0, 20, {})):
    profile = loop._Profile(steps, 4, tmp_path)
    for number in range(4, last):
      profile.tick(number)
      assert said == ([want[number]] if number in want else [])
      said.clear()
  profile = loop._Profile(9, 0, tmp_path)
  for number in range(12):
    profile.tick(number)
  profile.close()
  profile.close()
  assert said == ["start", "stop"]


@pytest.mark.slow
def test_bad_samples_are_left_out_and_counted(world, one_device, tmp_path):
  records = [small_world.record(i) for i in range(6)]
  records[2] = small_world.record(2, images=(small_world.png(2)[:80],))
  records[4] = small_world.record(4, rejected=())
  data = small_world.data_folder(tmp_path / "data", records)
  make = functools.partial(small_world.config, world / "model", data)
  with pytest.raises(UserError, match="'r4' has no rejected answer"):
    train.train_and_evaluate(make({"epochs": 1.0}), tmp_path / "a")
  fields = {"data.on_bad_sample": "skip", "objective.name": "dpo"}
  train.train_and_evaluate(make(fields), tmp_path / "b")
  lines = (tmp_path / "b/skipped.jsonl").read_text().splitlines()
  noted = {json.loads(line)["reason"].split("'")[1] for line in lines[:1]}
  assert noted == {"r4"}
  assert json.loads(lines[1])["id"] == "r2"
  cached = make({**fields, "reference": "cached"})
  train.train_and_evaluate(cached, tmp_path / "c")
  for run in ("b", "c"):
    rows = metrics.read(tmp_path / run / "metrics/train.jsonl")
    assert sum(row["rows_used"] for row in rows) == 4
    assert sum(row["bad_samples"] for row in rows) == 1
  losses = [small_world.losses(tmp_path / run) for run in ("b", "c")]
  assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_errors_are_one_line_and_code_2(world, tmp_path):
  config = small_world.config_file(tmp_path / "c.py", small_run.config(world))
  process = small_run.command(
    f"--config={config}", f"--workdir={tmp_path}/run", "--config.lrr=1"
  )
  _, said = process.communicate()
  assert process.returncode == 2
  assert said == (
    "error: config has no field 'lrr'; did you mean 'lr'? "
    "(--help lists them all)\n"
  )


@pytest.mark.slow
def test_a_run_with_worker_processes_ends_quietly(
  world, compiled_once, tmp_path
):
  """Nothing on standard error; the table counts bytes as they are held."""
  config = small_run.config(world, steps=2, data__workers=2, dtype="bfloat16")
  path = small_world.config_file(tmp_path / "c.py", config)
  process = small_run.command(f"--config={path}", f"--workdir={tmp_path}/run")
  said, complaints = process.communicate()
  assert process.returncode == 0, complaints
  assert complaints == ""
  total = next(t for t in said.splitlines() if t.startswith("total"))
  numbers = [float(x.replace(",", "")) for x in re.findall(r"[\d,.]+", total)]
  trained, its_bytes, frozen, bytes_of_frozen = numbers
  assert its_bytes == pytest.approx(4 * trained / 1e3, abs=0.01)
  assert bytes_of_frozen == pytest.approx(2 * frozen / 1e3, abs=0.01)
