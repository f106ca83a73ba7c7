"""Runs commands that depend on one another, a few at a time, and prints their
output.

One process of the toy keeps one core busy, so two at a time use two cores
better than one after the other does.
"""

import dataclasses
import fcntl
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO

from povid_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Command:
  """One Python command, what it is for, and the steps that it waits for."""

  name: str
  title: str
  command: tuple[str, ...]
  needs: tuple[str, ...] = ()

  def __str__(self) -> str:
    return "python " + shlex.join(self.command)


def run(
  steps: Sequence[Command],
  finished: Collection[str],
  done: Callable[[Command, float], None],
  *,
  lanes: int,
  lock: Path,
  environment: Mapping[str, str],
) -> None:
  """Runs every step that is not finished, `lanes` at a time.

  The children hold `lock` as well: after a kill -9 of this process, a new one
  waits until the last of them has ended, so that no two write to one place.

  Args:
    steps: in an order in which one after the other would work.
    finished: names of the steps to pass over.
    done: called with each step that succeeded and the seconds it took.
    environment: of the commands, on top of this process's own.

  Raises:
    UserError: a command failed; the others running have been stopped.
  """
  todo = [step for step in steps if step.name not in finished]
  if not todo:
    return
  over = set(finished)
  width = max(len(step.name) for step in todo)
  with open(lock, "w") as held:
    _take(held, lock)
    running: dict[str, _Running] = {}
    ended: queue.Queue[str] = queue.Queue()
    count = len(steps) - len(todo)
    try:
      while todo or running:
        for step in [s for s in todo if over.issuperset(s.needs)]:
          if len(running) == lanes:
            break
          todo.remove(step)
          count += 1
          print(
            f"\n[{count}/{len(steps)}] {step.title}\n  $ {step}", flush=True
          )
          running[step.name] = _Running(step, held, environment, width, ended)
        name = ended.get()
        command = running.pop(name)
        seconds = command.result()
        done(command.step, seconds)
        over.add(name)
        print(f"{name:{width}} | took {seconds:.0f} s", flush=True)
    finally:
      for command in running.values():
        command.stop()


def _take(held: IO[str], lock: Path) -> None:
  try:
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    print(f"another run is at work in {lock.parent}: waiting for it to end")
    fcntl.flock(held, fcntl.LOCK_EX)


class _Running:
  """A command that runs; its lines are printed behind its name."""

  def __init__(
    self,
    step: Command,
    held: IO[str],
    environment: Mapping[str, str],
    width: int,
    ended: queue.Queue[str],
  ):
    self.step = step
    self._start = time.monotonic()
    self._process = subprocess.Popen(
      [sys.executable, *step.command],
      env={**os.environ, **environment},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      encoding="utf-8",
      errors="replace",
      pass_fds=(held.fileno(),),
    )
    self._thread = threading.Thread(
      target=self._pass_on, args=(f"{step.name:{width}} | ", ended), daemon=True
    )
    self._thread.start()

  def _pass_on(self, prefix: str, ended: queue.Queue[str]) -> None:
    output = self._process.stdout
    assert output is not None
    with output:
      for line in output:
        print(prefix + line.rstrip("\n"), flush=True)
    self._process.wait()
    ended.put(self.step.name)

  def result(self) -> float:
    """Seconds it took. Raises UserError if it failed."""
    code = self._process.wait()
    if code:
      raise UserError(
        f"{self.step.name} failed (see above); the same command continues there"
      )
    return time.monotonic() - self._start

  def stop(self) -> None:
    """Asks it to end (a training run saves first) and waits."""
    self._process.terminate()
    self._thread.join()
