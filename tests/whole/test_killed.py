"""Runs that are killed, and disks that fill up."""

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import time

import pytest

from tests import small_world
from tests.forks import alive
from tests.whole import small_run


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

  def start(workdir):
    argv = (f"--config={config}", f"--workdir={workdir}")
    return small_run.command(*argv, env=cached)

  def run(workdir, patience=200):
    process = start(workdir)
    out, said = process.communicate(timeout=patience)
    return process.returncode, out, said

  assert run(tmp_path / "whole")[0] == 0
  with _small_disk(tmp_path / "disk") as disk:
    workdir = disk / "run"
    process = start(workdir)
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


def _lines(workdir):
  path = workdir / "metrics/train.jsonl"
  return path.read_bytes().count(b"\n") if path.exists() else 0


def _kill_somewhere(pid, workdir, draw, during_save):
  """Kills a run once it has trained a little; False if it ended before."""
  more = _lines(workdir) + draw.randrange(1, 4)
  folder = workdir / "checkpoints"
  while alive(pid):
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


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 20])
def test_kill_at_random_moments(kills, world, compiled_once, tmp_path):
  """Restarted until done, the losses are those of a run left alone."""
  config = small_run.config(world, steps=4 * kills, checkpoint__every=1)
  path = small_world.config_file(tmp_path / "c.py", config)
  forks = small_run.forks(compiled_once, tmp_path / "renames")
  forks.start(f"--config={path}", f"--workdir={tmp_path}/whole")
  assert forks.wait() == 0
  workdir, draw, killed, code = tmp_path / "run", random.Random(0), 0, None
  while code != 0:
    pid = forks.start(f"--config={path}", f"--workdir={workdir}")
    if killed < kills:
      killed += _kill_somewhere(pid, workdir, draw, killed % 2 == 0)
    code = forks.wait()
    assert code in (0, -signal.SIGKILL)
  forks.close()
  assert killed == kills
  assert len(small_world.losses(workdir)) == 4 * kills
  assert small_world.losses(workdir) == small_world.losses(tmp_path / "whole")
