"""One kind of error for what a user can mend, and the way it is shown."""

import sys
import time
from collections.abc import Callable
from types import CoroutineType


class UserError(Exception):
  """Bad input, said in one line: what, where, and what was expected."""


def run(main: Callable[[], int | None]) -> None:
  """Runs a command's `main`; a UserError becomes one line and exit code 2."""
  try:
    sys.exit(main())
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    print("interrupted; the same command continues", file=sys.stderr)
    sys.exit(130)
  except BrokenPipeError:  # `... | head` closed our standard output
    sys.stderr.close()
    sys.exit(141)


def hush_reads() -> None:
  """Keeps quiet about asynchronous reads that were under way when one failed.

  Each would report to nobody, with a traceback of its own after our one line.
  """
  shown = sys.unraisablehook

  def hook(unraisable: "sys.UnraisableHookArgs") -> None:
    left_alone = isinstance(unraisable.object, CoroutineType)
    if not left_alone and str(unraisable.exc_value) != "Event loop is closed":
      shown(unraisable)

  sys.unraisablehook = hook
  time.sleep(0.5)  # for most of them: at exit the hook is gone before they are
