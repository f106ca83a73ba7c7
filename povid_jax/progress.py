"""What a person reads of a command that runs: bars, lines, numbers."""

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

  Where stderr is no terminal (a log file, a pod) it is a line every ten
  seconds, the first after ten: work that is done sooner prints nothing. Without
  `lines` nothing is printed there.
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
    # the average of the run: items that come in chunks would make the time left
    # of the latest ones a hundred times too long
    smoothing=0,
    leave=watched,
    disable=not watched and not lines,
  )


def say(text: str) -> None:
  """Prints a line, above the bar where there is one."""
  tqdm.write(text, file=sys.stdout)
  sys.stdout.flush()


def digits(value: float, decimals: int = 4, sign: str = "") -> str:
  """A number with so many decimals; one that they would hide keeps two digits.

  Args:
    decimals: behind the point.
    sign: "+" to write it for positive numbers too.
  """
  if 0 < abs(value) < 10.0 ** (1 - decimals):
    return f"{value:{sign}.1e}"
  return f"{value:{sign}.{decimals}f}"


class _Lines:
  """stderr, with every state of a bar on a line of its own."""

  def write(self, text: str) -> None:
    text = text.strip()
    if text:
      sys.stderr.write(text + "\n")

  def flush(self) -> None:
    sys.stderr.flush()
