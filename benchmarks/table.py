"""Tables as the documentation has them."""

from collections.abc import Sequence


def as_markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  """A row of heads, and the lines."""
  rows = [heads, ["---"] * len(heads), *lines]
  return "\n".join("| " + " | ".join(row) + " |" for row in rows)
