"""One kind of error for what a user can mend, and the way it is shown."""

import errno
import logging
import sys
import time
import warnings
from collections.abc import Callable
from types import CoroutineType

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # errors of a full disk


class UserError(Exception):
  """Bad input, said in one line: what, where, and what was expected."""


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
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except BrokenPipeError:  # `... | head` closed our standard output
    sys.stderr.close()
    sys.exit(141)
  except OSError as error:
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
