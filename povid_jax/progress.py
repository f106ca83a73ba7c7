"""Progress bars: throughput and time left, quiet when nobody watches."""

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(
  iterable: Iterable | None = None,
  *,
  total: int | None = None,
  desc: str = "",
  unit: str = "it",
  initial: int = 0,
) -> Any:
  """A tqdm bar on stderr; shows nothing when stderr is not a terminal."""
  return tqdm(
    iterable,
    total=total,
    desc=desc,
    unit=unit,
    initial=initial,
    disable=None,
    dynamic_ncols=True,
    smoothing=0.1,
  )
