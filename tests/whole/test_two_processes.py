"""Two processes of one run, on this machine: a signal to one stops both."""

import contextlib
import signal
import socket
import time

import pytest

from tests import small_world
from tests.whole import small_run

PATIENCE = 150  # JAX takes a process for dead after 100 s without a heartbeat


def _port() -> int:
  with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    return one.getsockname()[1]


@contextlib.contextmanager
def _two(config, workdir, cache):
  port = _port()
  env = {
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  runs, said = [], []
  for i in range(2):
    said.append(open(workdir.parent / f"said{i}", "w+"))
    runs.append(
      small_run.command(
        f"--config={config}",
        f"--workdir={workdir}",
        f"--coordinator=127.0.0.1:{port}",
        "--num-processes=2",
        f"--process-id={i}",
        env=env,
        output=said[i],
      )
    )
  try:
    yield runs, [workdir.parent / f"said{i}" for i in range(2)]
  finally:
    for run, file in zip(runs, said, strict=True):
      run.kill()
      run.wait()
      file.close()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("sent", "when", "codes", "words"),
  [
    (signal.SIGTERM, "step 2/", (143, 143), "stopped at step"),
  ],
)
def test_no_process_waits_for_a_lost_one(
  sent, when, codes, words, tmp_path, tmp_path_factory, compiled_once
):
  world = small_world.folders(tmp_path_factory.mktemp("two"), 12)
  fields = small_run.config(world, steps=3000, batch_size=4)
  config = small_world.config_file(tmp_path / "c.py", fields)
  with _two(config, tmp_path / "run", compiled_once) as (runs, said):
    while when not in said[0].read_text():
      assert all(run.poll() is None for run in runs), said[1].read_text()
      time.sleep(0.05)
    runs[1].send_signal(sent)
    end = time.monotonic() + PATIENCE
    while any(run.poll() is None for run in runs):
      assert time.monotonic() < end, [file.read_text() for file in said]
      time.sleep(0.1)
    found = [run.returncode for run in runs]
    text = "".join(file.read_text() for file in said)
  # a process that compiles when the other goes may be ended by JAX instead
  assert found[1] == codes[1] and found[0] in (codes[0], -signal.SIGABRT)
  assert words in text
  assert "Traceback" not in text
