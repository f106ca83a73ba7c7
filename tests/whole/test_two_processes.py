"""Two processes of one run: none waits for a lost one."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from povid_jax.training import lock
from tests import small_world
from tests.whole import small_run

PATIENCE = 300  # JAX takes a process for dead after 100 s without a heartbeat
WHOLE = 1200  # a run from its start, on a machine that does other things
STEPS = 60
pytestmark = pytest.mark.timeout(2400)
# every process but the first compiles for itself: as little as possible
QUICK = {
  "XLA_FLAGS": "--xla_force_host_platform_device_count=1 "
  "--xla_backend_optimization_level=0"
}


def _port() -> int:
  with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    return one.getsockname()[1]


class _Two:
  """The processes, and what each of them said."""

  def __init__(
    self,
    config: Path,
    workdir: Path,
    env: dict[str, str],
    prefix: Sequence[str],
  ):
    port, self.files = _port(), []
    self.runs: list[Any] = []
    for i in range(2):
      self.files.append(open(workdir.parent / f"said{i}", "w+"))
      self.runs.append(
        small_run.command(
          f"--config={config}",
          f"--workdir={workdir}",
          f"--coordinator=127.0.0.1:{port}",
          "--num-processes=2",
          f"--process-id={i}",
          env=env,
          output=self.files[i],
          prefix=prefix if i else (),
        )
      )

  def said(self, i: int) -> str:
    return Path(self.files[i].name).read_text()

  def until(self, words: str) -> None:
    """Waits for the first one to say this, while both run."""
    while words not in self.said(0):
      assert all(run.poll() is None for run in self.runs), self.said(1)
      time.sleep(0.05)

  def codes(self, patience: float = PATIENCE) -> list[int]:
    """Waits for both to end; their exit codes."""
    end = time.monotonic() + patience
    while any(run.poll() is None for run in self.runs):
      assert time.monotonic() < end, [self.said(i) for i in range(2)]
      time.sleep(0.1)
    return [run.returncode for run in self.runs]


@contextlib.contextmanager
def _two(
  config: Path, workdir: Path, cache: Path, prefix: Sequence[str] = ()
) -> Iterator[_Two]:
  """Two processes; `prefix` goes before the command of the second one."""
  env = {
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    **QUICK,
  }
  two = _Two(config, workdir, env, prefix)
  try:
    yield two
  finally:
    for run, file in zip(two.runs, two.files, strict=True):
      run.kill()
      run.wait()
      file.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
  root = tmp_path_factory.mktemp("two")
  world = small_world.folders(root, 12)
  fields = small_run.config(
    world, steps=STEPS, batch_size=4, objective__name="sft"
  )
  return small_world.config_file(root / "c.py", fields)


@pytest.mark.slow
@pytest.mark.parametrize("machines", [1, 2])
def test_a_signal_to_one_stops_both(machines, config, tmp_path, compiled_once):
  """... and the same command goes on to the losses of one process alone."""
  prefix = small_run.other_machine(tmp_path) if machines == 2 else ()
  with _two(config, tmp_path / "run", compiled_once, prefix) as two:
    two.until("step 2/")
    two.runs[1].send_signal(signal.SIGTERM)
    assert two.codes() == [143, 143], [two.said(i) for i in range(2)]
    text = two.said(0) + two.said(1)
    assert "stopped at step" in text and "Traceback" not in text
  with _two(config, tmp_path / "run", compiled_once, prefix) as two:
    assert two.codes(WHOLE) == [0, 0], [two.said(i) for i in range(2)]
    assert "continuing at step" in two.said(0)
  alone = small_run.command(
    f"--config={config}", f"--workdir={tmp_path}/alone", devices=2
  )
  printed = alone.communicate()
  assert alone.returncode == 0, printed
  got, want = (small_world.losses(tmp_path / n) for n in ("run", "alone"))
  assert len(got) == STEPS
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])  # 0: the one that the others ask
def test_a_lost_process_ends_the_other(lost, config, tmp_path, compiled_once):
  with _two(config, tmp_path / "run", compiled_once) as two:
    two.until("step 2/")
    two.runs[lost].kill()
    two.codes()
    left = two.runs[1 - lost].returncode
    said = two.said(1 - lost)
  assert left == 75, said
  lines = [line for line in said.splitlines() if line.startswith("error: ")]
  assert len(lines) == 1, said
  assert lines[0].startswith(f"error: process {1 - lost} of 2: ")
  assert "another process of the run is gone" in lines[0]
  assert lines[0].endswith("they continue from the last checkpoint")
  assert "Traceback" not in said


@pytest.mark.slow
def test_one_that_is_refused_ends_the_other(config, tmp_path, compiled_once):
  """The first alone looks at the lock; the second waits for it in vain."""
  with lock.held(tmp_path / "run"):
    with _two(config, tmp_path / "run", compiled_once) as two:
      assert two.codes() == [2, 75], [two.said(i) for i in range(2)]
  assert "is in use: process" in two.said(0)
