"""Commands that are killed: whole processes, without a start of seconds."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.whole import small_run

# A process that has imported everything, and forks a run for each line it
# reads. A run may be told to kill itself at its n-th rename, before or after.
_FORKS = """
import importlib, json, os, signal, sys
from povid_jax import errors
from povid_jax.training import reference_part
MODULES = ("povid_jax.train", "povid_jax.eval.__main__", "povid_jax.convert",
           "data_gen.__main__")
for module in (*MODULES, "data_gen.inject", "data_gen.injectors.sample",
               "data_gen.injectors.rules", "data_gen.write"):
  importlib.import_module(module)
reference_part.SECONDS = 0.0  # kept after every batch

def count_renames(told, log):
  done = 0
  def wrap(rename):
    def renamed(*args, **more):
      nonlocal done
      done += 1
      if told == done:
        os.kill(os.getpid(), signal.SIGKILL)
      value = rename(*args, **more)
      if told == -done:
        os.kill(os.getpid(), signal.SIGKILL)
      with open(log, "w") as file:
        file.write(str(done))
      return value
    return renamed
  os.rename, os.replace = wrap(os.rename), wrap(os.replace)

for line in sys.stdin:
  module, argv, told, log = json.loads(line)
  child = os.fork()
  if not child:
    sys.stdout = sys.stderr = open(log + ".said", "w")
    if told is not None:
      count_renames(told, log)
    errors.run(lambda: importlib.import_module(module).main(argv))
  print(child, flush=True)
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
  """Starts runs of any command, one at a time; a context manager.

  Args:
    cache: folder of what is compiled.
    log: file beside which each run leaves what it said.
  """

  def __init__(self, cache: Path, log: Path):
    env = {
      **os.environ,
      "XLA_FLAGS": small_run.flags(devices=1),
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(cache),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    self._log = log
    self._process = subprocess.Popen(
      [sys.executable, "-c", _FORKS],
      cwd=small_run.ROOT,
      env=env,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def start(self, *argv, module="povid_jax.train", told=None) -> int:
    """Starts a run; returns its process id.

    Args:
      told: the number of the rename before which it kills itself; negative:
        after which; 0: counts them only. None: renames are left alone.
    """
    line = [module, list(map(str, argv)), told, str(self._log)]
    self._process.stdin.write(json.dumps(line) + "\n")
    self._process.stdin.flush()
    return int(self._process.stdout.readline())

  def wait(self) -> int:
    """The exit code of the run."""
    return int(self._process.stdout.readline())

  @property
  def renames(self) -> int:
    """How many renames the last run made."""
    with contextlib.suppress(OSError, ValueError):
      return int(self._log.read_text())
    return 0

  @property
  def said(self) -> str:
    """What the last run printed."""
    return Path(f"{self._log}.said").read_text()

  def close(self) -> None:
    self._process.stdin.close()
    self._process.stdout.close()
    self._process.wait()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  return True
