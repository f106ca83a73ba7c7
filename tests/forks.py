"""Commands in whole processes, without a start of seconds.

Most of the time of a short command is the import of the libraries that it
uses. One process imports them once and forks a run for each command.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# A process that has imported everything, and forks a run for each line it
# reads. A run may be told to kill itself at its n-th rename, before or after.
_FORKS = """
import importlib, json, os, signal, sys
from povid_jax import errors
modules, prepare = json.loads(sys.argv[1])
for module in modules:
  importlib.import_module(module)
exec(prepare)

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
  module, argv, env, told, log = json.loads(line)
  child = os.fork()
  if not child:
    if env is not None:
      os.environ.clear()
      os.environ.update(env)
    for number, name in ((1, "stdout"), (2, "stderr")):
      flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
      os.dup2(os.open(log + "." + name, flags, 0o644), number)
    if told is not None:
      count_renames(told, log)
    errors.run(lambda: importlib.import_module(module).main(argv))
  print(child, flush=True)
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
  """Starts runs of any command, one at a time; a context manager.

  Args:
    modules: imported before the first run; runs may be of others too.
    log: file beside which each run leaves what it printed.
    env: environment of the process, and of runs that are given none.
    prepare: Python that is run once after the imports.
  """

  def __init__(
    self,
    modules: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    prepare: str = "",
  ):
    self._log = log
    self._process = subprocess.Popen(
      [sys.executable, "-c", _FORKS, json.dumps([modules, prepare])],
      cwd=Path(__file__).parents[1],
      env=env,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def start(
    self,
    *argv: object,
    module: str = "povid_jax.train",
    env: Mapping[str, str] | None = None,
    told: int | None = None,
  ) -> int:
    """Starts a run; returns its process id.

    Args:
      env: its whole environment; None: that of this process.
      told: the number of the rename before which it kills itself; negative:
        after which; 0: counts them only. None: renames are left alone.
    """
    given = None if env is None else dict(env)
    line = [module, list(map(str, argv)), given, told, str(self._log)]
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
  def stdout(self) -> str:
    """What the last run printed to standard output."""
    return Path(f"{self._log}.stdout").read_text()

  @property
  def stderr(self) -> str:
    """What the last run printed to standard error."""
    return Path(f"{self._log}.stderr").read_text()

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
