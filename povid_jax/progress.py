"""The output of a running command: progress bars, lines, numbers."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS = 10  # between the lines in a log file


def bar(
  iterable: Iterable | None = None,
  *,
  total: int | None = None,
  desc: str = "",
  unit: str = "it",
  initial: int = 0,
  lines: bool = True,
) -> Any:
  """A tqdm bar on stderr.

  If stderr is not a terminal (a log file, a pod), a line is printed every ten
  seconds instead. Work that takes less than ten seconds prints no line. With
  `lines=False` no lines are printed.
  """
  watched = sys.stderr.isatty()
  return tqdm(
    iterable,
    total=total,
    desc=desc,
    unit=unit,
    initial=initial,
    file=sys.stderr if watched else _Lines(),
    mininterval=0.1 if watched else SECONDS,
    delay=0 if watched else SECONDS,
    ncols=None if watched else 100,
    dynamic_ncols=watched,
    # the average over the whole run: items often arrive in chunks, and the rate
    # of the latest ones alone can make the time left a hundred times too long
    smoothing=0,
    leave=watched,
    disable=not watched and not lines,
  )


def say(text: str) -> None:
  """Prints a line, above the progress bar if there is one."""
  tqdm.write(text, file=sys.stdout)
  sys.stdout.flush()


def digits(value: float, decimals: int = 4, sign: str = "") -> str:
  """A number with this many decimals; a number too small for them keeps two
  digits.

  Args:
    decimals: digits after the decimal point.
    sign: "+" to write it for positive numbers too.
  """
  if 0 < abs(value) < 10.0 ** (1 - decimals):
    return f"{value:{sign}.1e}"
  return f"{value:{sign}.{decimals}f}"


class _Lines:
  """stderr, with each state of a progress bar on its own line."""

  def write(self, text: str) -> None:
    text = text.strip()
    if text:
      sys.stderr.write(text + "\n")

  def flush(self) -> None:
    sys.stderr.flush()
