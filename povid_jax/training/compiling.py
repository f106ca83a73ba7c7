"""Prints that a step is being compiled, and about how long that takes."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from povid_jax import files, progress

_EVERY = 60.0  # seconds between lines while it compiles


class Compiling:
  """Prints lines about compilation and keeps its duration for the next start.

  Args:
    workdir: the run directory; its compiled.json keeps the seconds of every
      compilation.
    enabled: False on all hosts but the first; then nothing is printed or kept.
    every: seconds between two lines of one compilation.
  """

  def __init__(
    self, workdir: Path, enabled: bool = True, every: float = _EVERY
  ):
    self._path = workdir / "compiled.json"
    self._enabled, self._every = enabled, every
    self._seconds: list[float] = []
    with contextlib.suppress(OSError, ValueError, TypeError):
      kept = files.parse_json(self._path.read_text())
      self._seconds = [float(value) for value in kept]

  @contextlib.contextmanager
  def saying(self, what: str) -> Iterator[None]:
    """Prints a line before, every minute, and after the block."""
    if not self._enabled:
      yield
      return
    progress.say(f"compiling {what} ({self._expected()})")
    done = threading.Event()
    start = time.monotonic()
    watch = threading.Thread(target=self._tick, args=(done, start), daemon=True)
    watch.start()
    try:
      yield
    finally:
      done.set()
      watch.join()
    seconds = time.monotonic() - start
    progress.say(f"compiled in {seconds:.0f} s")
    self._seconds.append(round(seconds, 1))
    with files.atomic_write(self._path) as file:
      json.dump(self._seconds, file)

  def _expected(self) -> str:
    if not self._seconds:
      return (
        "first time in this run directory; one to several minutes for a 7B "
        "model"
      )
    return (
      f"about {self._seconds[-1]:.0f} s, longest so far "
      f"{max(self._seconds):.0f} s"
    )

  def _tick(self, done: threading.Event, start: float) -> None:
    while not done.wait(self._every):
      seconds = time.monotonic() - start
      progress.say(f"still compiling, {seconds:.0f} s so far")
