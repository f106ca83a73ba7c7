"""One kind of error for what a user can mend, and the way it is shown."""

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


# what a system refuses, and no line of ours can mend
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
  """Bad input, said in one line: what, where, and what was expected."""


def first_line(error: BaseException) -> str:
  """What an error of a library says, without the dump that follows it."""
  text = (str(error).strip() or repr(error)).splitlines()[0]
  text = re.split(r" \[(?:tensorstore_spec|source locations)", text)[0]
  return text if len(text) <= 400 else f"{text[:400]}..."


def printable(text: str) -> str:
  """Text of others for one line of a terminal: no control characters in it.

  A name in a file may hold line ends, colours, or marks that turn the text
  round; they are shown as escapes.
  """
  return "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
  )


def is_panic(error: BaseException) -> bool:
  """Whether a library in Rust crashed; its exception is no Exception."""
  return type(error).__name__ == "PanicException"


def not_finite(what: str) -> UserError:
  """The error of a number that left a model as NaN or infinity."""
  return UserError(
    f"{what} is NaN or infinite: the checkpoint's weights are damaged, or its "
    "numbers are too large for the dtype (try float32)"
  )


def run(main: Callable[[], int | None]) -> None:
  """Runs a command's `main`; a UserError becomes one line and exit code 2."""
  try:
    sys.exit(main())
  except UserError as error:
    print(f"error: {printable(str(error))}", file=sys.stderr)
    sys.exit(2)
  except BrokenPipeError:  # `... | head` closed our standard output
    sys.stderr.close()
    sys.exit(141)
  except OSError as error:
    if error.errno in _REFUSALS and error.filename:
      name = printable(str(error.filename))
      print(f"error: {name}: {error.strerror}", file=sys.stderr)
      sys.exit(2)
    if error.errno not in NO_ROOM:
      raise
    where = f" ({error.filename})" if error.filename else ""
    print(
      f"error: no room left on the disk{where}; free some and run the same "
      "command again",
      file=sys.stderr,
    )
    sys.exit(2)
  except KeyboardInterrupt:
    print("interrupted; the same command continues", file=sys.stderr)
    sys.exit(130)


@contextlib.contextmanager
def hush_stderr() -> Iterator[None]:
  """Drops what a library writes to standard error past Python."""
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

  Each would report to nobody, with a traceback of its own after our one line.
  """
  hush_left_behind()
  time.sleep(0.5)  # for most of them: at exit the hook is gone before they are


def hush_left_behind() -> None:
  """The same for what comes later, writes too."""
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

  It logs each with a traceback, which would come before our one line.
  """
  logging.getLogger("absl").addFilter(_not_orbax)
  hush_left_behind()


def _not_orbax(record: logging.LogRecord) -> bool:
  return record.levelno < logging.ERROR or "orbax" not in record.pathname
