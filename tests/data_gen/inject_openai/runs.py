"""A server that fails, and the command that asks it."""

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from povid_jax.data.samples import read_samples
from tests.forks import Forks


class Server:
  def __init__(self, **config: object):
    command = [
      sys.executable,
      str(Path(__file__).parents[1] / "fake_provider.py"),
    ]
    self.process = subprocess.Popen(
      [*command, json.dumps(config)], stdout=subprocess.PIPE, text=True
    )
    self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

  def stats(self) -> dict:
    with urllib.request.urlopen(f"{self.url}/stats") as reply:
      return json.load(reply)

  def configure(self, **config: object) -> None:
    data = json.dumps(config).encode()
    urllib.request.urlopen(f"{self.url}/config", data).close()

  def close(self) -> None:
    self.process.kill()
    self.process.wait()
    self.process.stdout.close()


@contextlib.contextmanager
def serving(**config: object):
  server = Server(**config)
  try:
    yield server
  finally:
    server.close()


def command(folder: Path, server: Server, *args: object) -> list[str]:
  return [
    sys.executable, "-m", "data_gen", "inject",
    "--input", str(folder / "in.jsonl"), "--image-dir", str(folder / "images"),
    "--out", str(folder / "pairs.jsonl"), "--injector", "openai",
    "--model", "gpt-4o-mini", "--base-url", f"{server.url}/v1",
    "--backoff", "0.02", "--timeout", "1.5", *map(str, args),
  ]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
  return os.environ | {"OPENAI_API_KEY": "secret", "NO_PROXY": "*"} | more


@functools.cache
def _forks() -> Forks:
  folder = tempfile.mkdtemp()
  forks = Forks(
    ("openai", "data_gen.__main__", "data_gen.inject", "povid_jax.llm.client"),
    Path(folder, "run"),
    # imports what a client needs
    prepare="sys.modules['openai'].AsyncOpenAI(api_key='none').chat.completions",
  )
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  atexit.register(forks.close)
  return forks


def run(folder, server, *args, code: int = 0, **more: str):
  _, _, _, *argv = command(folder, server, *args)
  forks = _forks()
  forks.start(*argv, module="data_gen.__main__", env=environment(**more))
  done = subprocess.CompletedProcess(
    argv, forks.wait(), forks.stdout, forks.stderr
  )
  assert done.returncode == code, done.stdout + done.stderr
  assert "Traceback" not in done.stderr
  assert "secret" not in done.stdout + done.stderr
  return done


def summary(folder: Path) -> dict:
  return json.loads((folder / "summary.json").read_text())


def rows(path: Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def kill_when(process, journal: Path, accepted: int) -> None:
  """kill -9 once the journal has that many accepted items."""
  while process.poll() is None:
    if (
      journal.exists() and journal.read_bytes().count(b'"accepted"') >= accepted
    ):
      break
    time.sleep(0.01)
  assert process.poll() is None, "ended before the kill"
  os.kill(process.pid, signal.SIGKILL)
  process.wait()


def kill_three_times_and_finish(folder, server, count: int, *args) -> None:
  for part in (1, 2, 3):
    process = subprocess.Popen(
      command(folder, server, *args),
      env=environment(),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    kill_when(process, folder / "journal.jsonl", part * count // 4)
    assert not (folder / "pairs.jsonl").exists()
  run(folder, server, *args)


def check_exactly_once(folder: Path, count: int) -> list[str]:
  pairs = [pair.id for pair in read_samples(folder / "pairs.jsonl")]
  lost = [row["id"] for row in rows(folder / "rejected.jsonl")]
  assert sorted(pairs + lost) == sorted(f"s{i}" for i in range(count))
  assert all(row["reason"] for row in rows(folder / "rejected.jsonl"))
  return lost
