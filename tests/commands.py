"""Commands of data_gen in whole processes, without a start of seconds.

Most of the time of a short command is the import of the libraries that it
uses. One process imports them once and forks a run for each command.
"""

import atexit
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_FORKS = """
import json, os, sys
import openai
from data_gen import __main__ as commands, inject
from povid_jax import errors
from povid_jax.llm import client
openai.AsyncOpenAI(api_key="none").chat.completions  # imports what it needs

for line in sys.stdin:
  argv, env, output = json.loads(line)
  child = os.fork()
  if not child:
    os.environ.clear()
    os.environ.update(env)
    for number in (1, 2):
      os.dup2(os.open(output[number - 1], os.O_WRONLY), number)
    sys.argv = ["data_gen", *argv]
    errors.run(lambda: commands.main(argv))
  code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  print(code, flush=True)
"""


def _end(process: subprocess.Popen) -> None:
  """Its loop ends with its standard input."""
  assert process.stdin and process.stdout
  process.stdin.close()
  process.stdout.close()
  process.wait()


@functools.cache
def _forks() -> subprocess.Popen:
  process = subprocess.Popen(
    [sys.executable, "-c", _FORKS],
    cwd=Path(__file__).parents[1],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  atexit.register(_end, process)
  return process


def data_gen(
  *argv: object, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
  """`python -m data_gen ARGV` with that environment, to its end."""
  arguments = [*map(str, argv)]
  with tempfile.TemporaryDirectory() as folder:
    output = [Path(folder, name) for name in ("stdout", "stderr")]
    for path in output:
      path.touch()
    line = arguments, dict(env), [*map(str, output)]
    forks = _forks()
    assert forks.stdin and forks.stdout
    print(json.dumps(line), file=forks.stdin, flush=True)
    code = int(forks.stdout.readline())
    stdout, stderr = (path.read_text() for path in output)
  return subprocess.CompletedProcess(arguments, code, stdout, stderr)
