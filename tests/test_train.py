"""Whole runs: stopped, killed, resumed, out of room, and with bad input."""

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from povid_jax import loop, train
from povid_jax.data.records import RecordWriter, shard_name
from povid_jax.errors import UserError
from tests import small_world

ROOT = Path(train.__file__).parents[1]
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
  """Runs of one config share what was compiled."""
  folder = tmp_path_factory.mktemp("compiled")
  before = {
    "jax_compilation_cache_dir": jax.config.jax_compilation_cache_dir,
    "jax_persistent_cache_min_compile_time_secs": (
      jax.config.jax_persistent_cache_min_compile_time_secs
    ),
  }
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  yield folder
  for name, value in before.items():
    jax.config.update(name, value)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("train")
  small_world.model_folder(root)
  small_world.data_folder(root / "data", 10)
  return root


def _config(world, **fields):
  fields = {
    "steps": STEPS,
    **{k.replace("__", "."): v for k, v in fields.items()},
  }
  return small_world.config(world / "model", world / "data", fields)


@pytest.fixture(scope="module")
def whole_run(world, tmp_path_factory, compiled_once):
  """The directory of a run that nothing stopped."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  with small_world.one_device():
    state = train.train_and_evaluate(_config(world), workdir)
  assert int(state.step) == STEPS
  return workdir


@pytest.fixture(scope="module")
def whole(whole_run):
  """Its losses."""
  losses = small_world.losses(whole_run)
  assert len(set(losses)) == STEPS  # every step learns
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
  config = small_world.config_file(tmp_path / "c.py", _config(world))
  argv = [f"--config={config}", f"--workdir={tmp_path}/run"]
  with monkeypatch.context() as patch:
    _stop_at(patch, 1)
    assert train.main(argv) == 0
  said = capsys.readouterr()
  assert f"of {STEPS}, saved; the same command continues" in said.out
  done = len(small_world.losses(tmp_path / "run"))
  assert 1 < done < STEPS
  assert train.main(argv) == 0
  said = capsys.readouterr()
  assert f"continuing at step {done}" in said.out
  assert f"done: {STEPS} steps" in said.out
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

  config = _config(world, checkpoint__every=2)
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


def test_fields_that_change_no_number_may_change(
  world, whole, one_device, monkeypatch, tmp_path
):
  with monkeypatch.context() as patch:
    _stop_at(patch, 1)
    train.train_and_evaluate(_config(world), tmp_path)
  with pytest.raises(UserError, match="config.lr=0.01, this one has 0.02"):
    train.train_and_evaluate(_config(world, lr=0.02), tmp_path)
  train.train_and_evaluate(
    _config(world, checkpoint__every=1, checkpoint__keep=2), tmp_path
  )
  assert small_world.losses(tmp_path) == whole
  kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
  assert kept == [STEPS - 1, STEPS]


def test_rows_of_the_log(whole_run):
  lines = (whole_run / "metrics/train.jsonl").read_text().splitlines()
  row = json.loads(lines[0])
  assert {
    "step", "loss", "lr", "grad_norm", "padding", "tokens", "epoch",
    "input_wait_seconds", "margin/injected", "margin/noise", "drift/chosen",
    "noise_differs", "skipped",
  } <= set(row)  # fmt: skip
  assert row["lr"] == pytest.approx(0.01)
  assert 0 <= row["padding"] < 1
  # rates are known once there was a row before
  rates = {"seconds", "pairs_per_s", "tokens_per_s", "input_wait_share"}
  assert rates <= set(json.loads(lines[1]))


BAD = {
  "mesh": ({"mesh.fsdp": 3}, r"fsdp=3.* does not divide 8 devices"),
  "batch": ({"batch_size": 6}, "6 pairs do not divide over .* 8 devices"),
  "heads": ({"mesh.tensor": 8}, "mesh.tensor=8 does not divide decoder"),
  "accum": ({"grad_accum": 3}, "grad_accum=3 does not divide batch_size=2"),
  "init": ({"init": "/nowhere"}, "no checkpoint at /nowhere"),
  "no init": ({"init": ""}, "config.init is empty"),
  "objective": ({"objective.name": "pvid"}, "pvid.*did you mean 'povid'"),
  "hyper": ({"objective.hyper.betta": 1.0}, "betta.*did you mean 'beta'"),
  "noise": ({"noise.step": 1000}, "want 0..999, got 1000"),
  "choice": ({"noise.overflow": "wrp"}, "want one of .*wrap.*got 'wrp'"),
  "remat": ({"remat": "some"}, "remat: want one of"),
  "keep": ({"checkpoint.keep": 0, "batch_size": 8}, "want keep >= 1"),
  "nothing trained": (
    {"trainable": "decoder/mlp", "batch_size": 8}, "decoder/mlp"
  ),
  "not a regex": ({"trainable": "(", "batch_size": 8}, r"\("),
  "no lora": (
    {"lora.targets": "encoder", "batch_size": 8}, "matches no linear layer"
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
  with pytest.raises(UserError, match="holds no train record"):
    train.train_and_evaluate(config, tmp_path / "run")
  config = small_world.config(world / "model", tmp_path / "x", {})
  with pytest.raises(UserError, match="x"):
    train.train_and_evaluate(config, tmp_path / "run2")


def test_loss_that_is_not_finite(world, one_device, tmp_path):
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
  rows = [
    json.loads(line)
    for line in (tmp_path / "b/metrics/train.jsonl").read_text().splitlines()
  ]
  assert sum(row["rows_used"] for row in rows) == 4
  assert sum(row["bad_samples"] for row in rows) == 1


def _command(*argv, devices=1, env=None, **options):
  """A process of the command with its own devices."""
  env = {
    **os.environ,
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    "JAX_PLATFORMS": "cpu",
    **(env or {}),
  }
  return subprocess.Popen(
    [sys.executable, "-m", "povid_jax.train", *map(str, argv)],
    cwd=ROOT,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


def test_errors_are_one_line_and_code_2(world, tmp_path):
  config = small_world.config_file(tmp_path / "c.py", _config(world))
  process = _command(
    f"--config={config}", f"--workdir={tmp_path}/run", "--config.lrr=1"
  )
  _, said = process.communicate()
  assert process.returncode == 2
  assert said == (
    "error: config has no field 'lrr'; did you mean 'lr'? "
    "(--help lists them all)\n"
  )


@contextlib.contextmanager
def _small_disk(folder):
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
  if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("needs the right to mount a small disk")
  try:
    yield folder
  finally:
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_full_disk(world, compiled_once, tmp_path):
  """The last good checkpoint survives, and with room the run goes on."""
  fields = {"trainable": "decoder", "checkpoint.every": 2, "steps": 6}
  make = functools.partial(small_world.config, world / "model", world / "data")
  cached = {
    "JAX_COMPILATION_CACHE_DIR": str(compiled_once),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  config = small_world.config_file(tmp_path / "c.py", make(fields))

  def run(workdir, patience=200):
    process = _command(f"--config={config}", f"--workdir={workdir}", env=cached)
    out, said = process.communicate(timeout=patience)
    return process.returncode, out, said

  assert run(tmp_path / "whole")[0] == 0
  with _small_disk(tmp_path / "disk") as disk:
    workdir = disk / "run"
    process = _command(f"--config={config}", f"--workdir={workdir}", env=cached)
    while not (workdir / "checkpoints/2").exists():
      assert process.poll() is None
      time.sleep(0.01)
    process.kill()
    process.communicate()
    before = json.loads((workdir / "config.json").read_text())
    free = os.statvfs(disk)
    (disk / "ballast").write_bytes(b"x" * (free.f_bavail * 4096 - 100_000))
    code, _, said = run(workdir)
    assert code == 2, said
    assert "No space left" in said or "no room" in said
    assert said.startswith("error: ") and said.count("\n") == 1, said
    steps = [p.name for p in (workdir / "checkpoints").iterdir()]
    assert "2" in steps or "4" in steps
    (disk / "ballast").unlink()
    assert run(workdir)[0] == 0
    assert json.loads((workdir / "config.json").read_text()) == before
    assert small_world.losses(workdir) == small_world.losses(tmp_path / "whole")


# A process that has imported everything, and forks a run for each line it
# reads: what is killed is a whole process, without a start of seconds.
_FORKS = """
import os, sys
from povid_jax import errors, eval, train
for line in sys.stdin:
  child = os.fork()
  if not child:
    sys.stdout = sys.stderr = open(os.devnull, "w")
    errors.run(lambda: train.main(line.split()))
  print(child, flush=True)
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class _Forks:
  def __init__(self, cache):
    env = {
      **os.environ,
      "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(cache),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    self._process = subprocess.Popen(
      [sys.executable, "-c", _FORKS],
      cwd=ROOT,
      env=env,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def start(self, *argv):
    self._process.stdin.write(" ".join(map(str, argv)) + "\n")
    self._process.stdin.flush()
    return int(self._process.stdout.readline())

  def wait(self):
    return int(self._process.stdout.readline())

  def close(self):
    self._process.stdin.close()
    self._process.stdout.close()
    self._process.wait()


def _alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  return True


def _lines(workdir):
  path = workdir / "metrics/train.jsonl"
  return path.read_bytes().count(b"\n") if path.exists() else 0


def _kill_somewhere(pid, workdir, draw, during_save):
  """Kills a run once it has trained a little; False if it ended before."""
  more = _lines(workdir) + draw.randrange(1, 4)
  folder = workdir / "checkpoints"
  while _alive(pid):
    # what is not a number is a save that is not done
    saving = folder.exists() and any(
      not p.name.isdigit() for p in folder.iterdir()
    )
    if _lines(workdir) >= more and (saving or not during_save):
      if not during_save:
        time.sleep(draw.uniform(0, 0.05))
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
      return True
    time.sleep(0.0005)
  return False


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_at_random_moments(kills, world, compiled_once, tmp_path):
  """Restarted until done, the losses are those of a run left alone."""
  config = _config(world, steps=4 * kills, checkpoint__every=1)
  path = small_world.config_file(tmp_path / "c.py", config)
  forks = _Forks(compiled_once)
  forks.start(f"--config={path}", f"--workdir={tmp_path}/whole")
  assert forks.wait() == 0
  workdir, draw, killed, code = tmp_path / "run", random.Random(0), 0, None
  while code != 0:
    pid = forks.start(f"--config={path}", f"--workdir={workdir}")
    if killed < kills:
      killed += _kill_somewhere(pid, workdir, draw, during_save=killed % 2)
    code = forks.wait()
    assert code in (0, -signal.SIGKILL)
  forks.close()
  assert killed == kills
  assert len(small_world.losses(workdir)) == 4 * kills
  assert small_world.losses(workdir) == small_world.losses(tmp_path / "whole")
