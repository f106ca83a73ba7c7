"""One run at a time in a directory; the lock of a dead one is taken over."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from povid_jax.errors import UserError
from povid_jax.training import lock

HOLDER = """
import sys, time
from pathlib import Path
from povid_jax.training import lock
with lock.held(Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(60)
"""


def _start(workdir):
  process = subprocess.Popen(
    [sys.executable, "-c", HOLDER, str(workdir)],
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": os.getcwd()},
  )
  assert process.stdout.readline() == "held\n"
  return process


def test_the_second_one_says_who_holds_it_until_that_one_is_dead(tmp_path):
  process = _start(tmp_path)
  try:
    wanted = rf"in use: process {process.pid} on {socket.gethostname()} since"
    with pytest.raises(UserError, match=wanted), lock.held(tmp_path):
      pass
  finally:
    process.kill()
    process.wait()
    process.stdout.close()
  assert json.loads((tmp_path / ".lock").read_text())["pid"] == process.pid
  with lock.held(tmp_path):
    held = json.loads((tmp_path / ".lock").read_text())
    assert held["pid"] == os.getpid()
  assert (tmp_path / ".lock").exists() is False  # nothing else was there


def test_a_holder_on_another_machine_gives_signs_of_life(tmp_path, monkeypatch):
  """Where flock does not reach it."""
  monkeypatch.setattr(lock, "BEAT", 0.2)
  path = tmp_path / ".lock"
  path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "since": "then"}))
  done = threading.Event()
  beat = threading.Thread(target=lock._beat, args=(path, done))
  beat.start()
  try:
    with pytest.raises(UserError, match="process 7 on elsewhere since then"):
      with lock.held(tmp_path):
        pass
  finally:
    done.set()
    beat.join()
  start = time.monotonic()
  with lock.held(tmp_path):  # no sign of life any more
    assert 0.4 < time.monotonic() - start < 5
