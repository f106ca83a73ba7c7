"""How a run stops on SIGTERM and Ctrl-C.

A run that has nothing to save yet leaves at once. In the loop it finishes the
step (its compilation, too, which takes minutes), saves and leaves. An
evaluation is left at once: its step is saved. In all cases the exit code is
128 + the signal's number (143, 130), as a shell has it for a process that a
signal ended: SLURM, Kubernetes and JobSet see an interrupted job and start it
again.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

import jax
import numpy as np

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
  """Raised when a signal stops a run that has nothing to save."""


class Stops:
  """Listens for signals while it is entered; a context manager.

  Attributes:
    told: the signal that this process got last, or 0.
    code: exit code of the command: 0, or 128 + the signal that ended the run.
  """

  def __init__(self) -> None:
    self.told = 0
    self.code = 0
    # says what is lost; there only while signals are noted
    self._lost: Callable[[], str] | None = None
    self._before: dict[int, Any] = {}

  def __enter__(self) -> Self:
    self.listen()
    return self

  def listen(self) -> None:
    """Installs the handlers, also again after a library has replaced them."""
    # signals reach the main thread only, and only it may listen
    if threading.current_thread() is threading.main_thread():
      for number in _SIGNALS:
        before = signal.signal(number, self._on_signal)
        self._before.setdefault(number, before)

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    for number, handler in self._before.items():
      # None: not set from Python, and cannot be set from it
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    self._before.clear()

  @contextlib.contextmanager
  def noting_signals(self, lost: Callable[[], str]) -> Iterator[None]:
    """In this block a signal is only noted; the block looks at `told`.

    Args:
      lost: returns the text about the work that a second Ctrl-C loses.
    """
    before, self._lost = self._lost, lost
    try:
      yield
    finally:
      self._lost = before

  @contextlib.contextmanager
  def leaving_at_signal(self) -> Iterator[None]:
    """In this block, inside `noting_signals`, a signal leaves at once again."""
    before, self._lost = self._lost, None
    try:
      if self.told:
        self._leave(self.told)
      yield
    finally:
      self._lost = before

  def agreed(self) -> int:
    """The signal that any process of the run got, or 0; every process must call
    this at the same step.
    """
    told = self.told
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      every = multihost_utils.process_allgather(np.array([told]))
      told = int(np.max(every))
    return told

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    del frame
    again, self.told = self.told, number
    if self._lost is None:
      self._leave(number)
    elif number == signal.SIGINT and again:
      # not by an exception: what is being saved would be waited for
      print(f"stopped at once: {self._lost()}", file=sys.stderr, flush=True)
      os._exit(128 + number)
    elif number == signal.SIGINT:
      print(
        "stopping after this step, then saving a checkpoint; Ctrl-C again "
        "stops at once",
        file=sys.stderr,
        flush=True,
      )

  def _leave(self, number: int) -> None:
    self.code = 128 + number
    name = signal.Signals(number).name
    print(
      f"stopped by {name}; run the same command again to continue",
      file=sys.stderr,
      flush=True,
    )
    raise Stopped(self.code)
