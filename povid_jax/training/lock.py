"""One run at a time in a run directory.

WORKDIR/.lock names the holder and is locked with flock while it lives, so
the lock of a process that was killed is free at once. On file systems that keep
flock within one machine, a holder on another machine is recognised by the
file's modification time: a live process updates it every few seconds.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from povid_jax import files
from povid_jax.errors import UserError

BEAT = 10.0  # seconds between two signs of life


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
  """Holds the directory while the block runs.

  Raises:
    UserError: another process trains in it; the message says which and since
      when.
  """
  path = workdir / ".lock"
  files.ensure_parent(path)
  file = _open(path)
  try:
    _take(file, path)
    done = threading.Event()
    beat = threading.Thread(
      target=_beat, args=(path, done), name="workdir lock", daemon=True
    )
    beat.start()
    try:
      yield
    finally:
      done.set()
      beat.join()
      # the file stays: another process may have it open already
      file.seek(0)
      file.truncate()
      _remove_empty(workdir)
  finally:
    file.close()  # which lets the lock go


def _remove_empty(workdir: Path) -> None:
  """Removes the new, empty folder if the config was refused."""
  with contextlib.suppress(OSError):
    if [path.name for path in workdir.iterdir()] == [".lock"]:
      (workdir / ".lock").unlink()
      workdir.rmdir()


def _open(path: Path) -> IO[str]:
  try:
    return open(path, "a+", encoding="utf-8")
  except OSError as error:
    raise UserError(
      f"cannot write {path}: {error.strerror}; choose a --workdir that you may "
      "write to"
    ) from error


def _take(file: IO[str], path: Path) -> None:
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise _in_use(path, _holder(file)) from error
  except OSError:
    pass  # a file system without locks: the signs of life are left
  holder = _holder(file)
  if holder and holder.get("host") != socket.gethostname() and _alive(path):
    raise _in_use(path, holder)
  file.seek(0)
  file.truncate()
  since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
  json.dump(
    {"host": socket.gethostname(), "pid": os.getpid(), "since": since}, file
  )
  file.flush()


def _holder(file: IO[str]) -> dict[str, str]:
  file.seek(0)
  try:
    held_by = files.parse_json(file.read() or "{}")
  except ValueError:
    return {}
  return held_by if isinstance(held_by, dict) else {}


def _in_use(path: Path, holder: dict[str, str]) -> UserError:
  who = "another process"
  if holder:
    who = (
      f"process {holder.get('pid')} on {holder.get('host')} since "
      f"{holder.get('since')}"
    )
  return UserError(
    f"{path.parent} is in use: {who} trains in it. Wait until it ends, stop "
    "it, or use another --workdir"
  )


def _alive(path: Path) -> bool:
  """Whether a process on another machine still updates the file."""
  first = path.stat().st_mtime_ns
  end = time.monotonic() + 2.5 * BEAT
  while time.monotonic() < end:
    time.sleep(BEAT / 10)
    if not path.exists():
      return False
    if path.stat().st_mtime_ns != first:
      return True
  return False


def _beat(path: Path, done: threading.Event) -> None:
  while not done.wait(BEAT):
    with contextlib.suppress(OSError):
      os.utime(path)
