"""One kind of error for what a user can mend, and the way it is shown."""

import sys
from collections.abc import Callable


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
