"""The error for mistakes that a user can correct, and how it is printed."""

import contextlib
import errno
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from types import CoroutineType

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # errors of a full disk


# errors of the operating system that this code cannot repair
_REFUSALS = (
  errno.EACCES,
  errno.EPERM,
  errno.EROFS,
  errno.EISDIR,
  errno.ENOTDIR,
  errno.ENOENT,
  errno.ENAMETOOLONG,
  errno.ELOOP,
  errno.EMFILE,
  errno.EIO,
  errno.ESTALE,
)


class UserError(Exception):
  """Bad input, reported in one line: what, where, and what was expected."""


def first_line(error: BaseException) -> str:
  """The message of a library's error, without the dump that follows it."""
  text = (str(error).strip() or repr(error)).splitlines()[0]
  text = re.split(r" \[(?:tensorstore_spec|source locations)", text)[0]
  return text if len(text) <= 400 else f"{text[:400]}..."


def printable(text: str) -> str:
  """Text from outside for one line of a terminal, control characters escaped.

  A name in a file may hold line ends, colours, or marks that turn the text
  round; they are shown as escapes.
  """
  return "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
  )


def is_panic(error: BaseException) -> bool:
  """Whether a library in Rust crashed; its error is no subclass of
  Exception.
  """
  return type(error).__name__ == "PanicException"


def not_finite(what: str) -> UserError:
  """The error for a number that a model returned as NaN or infinity."""
  return UserError(
    f"{what} is NaN or infinite: the checkpoint's weights are damaged, or its "
    "numbers are too large for the dtype (try float32)"
  )


def run(main: Callable[[], int | None]) -> None:
  """Runs a command's `main`; a UserError becomes one line and exit code 2."""
  try:
    code = main()
  except BaseException as error:
    code = shown(error)
    if code is None:
      raise
  sys.exit(code)


def shown(error: BaseException) -> int | None:
  """Prints one line for what a user can mend; its exit code.

  None, and nothing printed, for a fault of ours and what has its own code.
  """
  match error:
    case UserError():
      return _said(printable(str(error)))
    case KeyboardInterrupt():
      print(
        "interrupted; run the same command again to continue", file=sys.stderr
      )
      return 130
    case BrokenPipeError():  # `... | head` closed our standard output
      sys.stderr.close()
      return 141
    case OSError() if error.errno in _REFUSALS and error.filename:
      name = str(error.filename)
      name = name if len(name) <= 1000 else f"{name[:1000]}..."
      return _said(f"{printable(name)}: {error.strerror}")
    case OSError() if error.errno in NO_ROOM:
      where = f" ({error.filename})" if error.filename else ""
      return _said(
        f"no space left on the disk{where}; free some space and run the same "
        "command again"
      )
  return None


def _said(text: str) -> int:
  print(f"error: {text}", file=sys.stderr)
  return 2


@contextlib.contextmanager
def hush_stderr() -> Iterator[None]:
  """Discards what a library in C or Rust writes to standard error."""
  try:
    kept = os.dup(2)
  except OSError:  # there is none
    yield
    return
  sys.stderr.flush()
  nothing = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(nothing, 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    os.close(nothing)


def hush_reads() -> None:
  """Keeps quiet about asynchronous reads that were under way when one failed.

  Nothing waits for these reads any more, and each would print its own traceback
  after our one line.
  """
  hush_left_behind()
  # most reads fail within this time; at exit Python removes the hook too early
  # for the others
  time.sleep(0.5)


def hush_left_behind() -> None:
  """The same for reads and writes that fail later, until the process ends."""
  logging.getLogger("asyncio").addFilter(_was_waited_for)
  never = "coroutine .* was never awaited"
  warnings.filterwarnings("ignore", never, RuntimeWarning)
  shown = sys.unraisablehook
  if getattr(shown, "hushes", False):
    return

  def hook(unraisable: "sys.UnraisableHookArgs") -> None:
    left_alone = isinstance(unraisable.object, CoroutineType)
    if not left_alone and str(unraisable.exc_value) != "Event loop is closed":
      shown(unraisable)

  hook.hushes = True
  sys.unraisablehook = hook


def _was_waited_for(record: logging.LogRecord) -> bool:
  return "exception was never retrieved" not in record.getMessage()


def hush_orbax() -> None:
  """Keeps Orbax from logging errors that it raises as well.

  Orbax logs each error with a traceback, which would appear before our one
  line.
  """
  logging.getLogger("absl").addFilter(_not_orbax)
  hush_left_behind()


def _not_orbax(record: logging.LogRecord) -> bool:
  return record.levelno < logging.ERROR or "orbax" not in record.pathname
