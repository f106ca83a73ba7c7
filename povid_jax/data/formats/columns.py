"""Any table: `--columns=image=photo,question=prompt,chosen=good,rejected=bad`.

Left of each sign stands our name, right of it the key or column of the data; a
dot leads into an object (`answers.best`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from povid_jax.data.formats import answers, base, context
from povid_jax.data.formats.base import Format, Pick, Row
from povid_jax.data.pairs import Sample
from povid_jax.errors import UserError

NAMES = (
  "id", "image", "question", "context", "chosen", "rejected", "system"
)  # fmt: skip


def parse(flag: str) -> dict[str, str]:
  """Our name -> the data's, from the flag; UserError for a malformed one."""
  columns: dict[str, str] = {}
  for part in flag.split(","):
    ours, sign, theirs = (piece.strip() for piece in part.partition("="))
    if not sign or not theirs or ours not in NAMES:
      raise UserError(
        f"--columns: {part!r}: want NAME=COLUMN with one of the names "
        f"{', '.join(NAMES)}"
      )
    if ours in columns:
      raise UserError(f"--columns: {ours} is given twice")
    columns[ours] = theirs
  if missing := [n for n in ("question", "chosen") if n not in columns]:
    raise UserError(f"--columns: {' and '.join(missing)} missing")
  return columns


def _value(row: Row, path: str) -> Any:
  if path in row:
    return row[path]
  value: Any = row
  for key in path.split("."):
    if not isinstance(value, dict) or key not in value:
      raise base.Malformed(
        f"no column {path!r}; the columns are {', '.join(row)}"
      )
    value = value[key]
  return value


def make(columns: Mapping[str, str]) -> Format:
  """The format of a table with these columns."""

  def samples(row: Row, pick: Pick) -> Iterable[Sample]:
    found = {ours: _value(row, theirs) for ours, theirs in columns.items()}
    asked = base.words(found["question"], columns["question"])
    chosen = base.words(found["chosen"], columns["chosen"])
    system = found.get("system")
    sample = Sample(
      base.row_id(found.get("id")),
      base.pictures(found.get("image"), columns.get("image", ""), pick),
      (asked, chosen),
      system=base.text(system, columns["system"]) if system else None,
    )
    if "rejected" in found:
      said = answers.several(found["rejected"], columns["rejected"])
      sample = answers.with_rejected(sample, said)
    yield context.after(sample, found.get("context"))

  roots = {theirs.partition(".")[0] for theirs in columns.values()}
  return Format(
    name="columns",
    title="the columns given",
    keys=tuple(columns.values()),
    matches=lambda row: True,
    samples=samples,
    reads=frozenset(roots | set(columns.values())),
  )
