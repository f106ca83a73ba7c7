"""What is trained: regexes on parameter paths, checked and printed."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from povid_jax.errors import UserError
from povid_jax.models import quantised


def match_trainable(
  paths: Iterable[str], regexes: str | Sequence[str]
) -> frozenset[str]:
  """The paths that at least one of the regexes matches (re.search).

  Raises:
    UserError: a regex matches no parameter; the message lists the groups.
  """
  paths = tuple(paths)
  regexes = (regexes,) if isinstance(regexes, str) else tuple(regexes)
  found: set[str] = set()
  for regex in regexes:
    compiled = compile_regex(regex)
    named = {path for path in paths if compiled.search(path)}
    if not named:
      near = difflib.get_close_matches(regex, paths, 1, 0.0)
      hint = f"; the nearest path is {near[0]}" if near else ""
      raise UserError(
        f"trainable {regex!r} matches no parameter{hint} (groups: "
        f"{top_groups(paths)})"
      )
    found |= named
  if not found:
    raise UserError(
      "config.trainable is empty, so no parameter would be trained; give a "
      "regular expression that matches parameters, decoder for example"
    )
  return frozenset(found)


def trainable_table(
  params: Mapping[str, Any], regexes: str | Sequence[str]
) -> str:
  """A table to print: parameters and bytes, trainable and frozen, by group.

  Args:
    params: path -> anything with `.shape` and `.dtype`.
    regexes: as in `match_trainable`, with its errors.
  """
  trainable = match_trainable(params, regexes)
  rows: dict[str, list[int]] = {}
  for path, leaf in params.items():
    size = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
    counts = rows.setdefault(_group_name(path), [0, 0, 0, 0])
    column = 0 if path in trainable else 2
    counts[column] += quantised.numbers(path, leaf)
    counts[column + 1] += size
  rows = dict(sorted(rows.items()))
  rows["total"] = [sum(column) for column in zip(*rows.values(), strict=True)]
  width = max(len(name) for name in rows)
  head = f"{'parameters':<{width}}  {'trainable':>22}  {'frozen':>22}"
  lines = [head, "-" * len(head)]
  for name, (on, on_bytes, off, off_bytes) in rows.items():
    cells = (_cell(on, on_bytes), _cell(off, off_bytes))
    lines.append(f"{name:<{width}}  {cells[0]:>22}  {cells[1]:>22}")
  return "\n".join(lines)


def _group_name(path: str) -> str:
  top = path.split("/")[0]
  return f"{top} LoRA" if re.search(r"/lora_[ab]$", path) else top


def _cell(count: int, size: int) -> str:
  if not count:
    return "-"
  for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
    if size >= scale:
      return f"{count:,} ({size / scale:.2f} {unit})"
  return f"{count:,} ({size} B)"


def compile_regex(regex: str) -> re.Pattern:
  """A compiled regex, or a UserError that shows it."""
  try:
    return re.compile(regex)
  except re.error as error:
    raise UserError(f"not a regular expression: {regex!r} ({error})") from error


def top_groups(paths: Iterable[str]) -> str:
  """First parts of the paths, for a message."""
  return ", ".join(sorted({path.split("/")[0] for path in paths})) or "none"
