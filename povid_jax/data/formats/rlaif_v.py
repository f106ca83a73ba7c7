"""RLAIF-V: own answers, ranked by an open model.

    {image, question, chosen, rejected, ds_name, origin_dataset, idx, ...}

openbmb/RLAIF-V-Dataset; as muffin/data/datasets.py of RLHF-V/RLAIF-V reads it.
"""

from collections.abc import Iterable

from povid_jax.data.formats import answers, base
from povid_jax.data.formats.base import Format, Pick, Row
from povid_jax.data.pairs import Sample


def images(row: Row, pick: Pick) -> tuple[base.Picture, ...]:
  """The picture in `image`, else the file that `image_path` names."""
  held = row.get("image")
  nothing = held is None or (
    isinstance(held, dict) and not held.get("bytes") and not held.get("path")
  )
  field = "image_path" if nothing else "image"
  return base.pictures(row.get(field), field, pick)


def made_id(row: Row) -> str:
  """Name and number of the row in the set it was taken from, or ""."""
  if (number := row.get("idx")) is None:
    return ""
  source = row.get("ds_name") or row.get("origin_dataset")
  return f"{source}-{number}" if source else str(number)


def _samples(row: Row, pick: Pick) -> Iterable[Sample]:
  yield answers.pair(
    images(row, pick),
    base.need(row, "question"),
    base.need(row, "chosen"),
    base.need(row, "rejected"),
    name=made_id(row),
  )


FORMAT = Format(
  name="rlaif_v",
  title="RLAIF-V",
  keys=("image", "question", "chosen", "rejected", "ds_name"),
  matches=lambda row: (
    answers.matches(row) and bool(row.keys() & {"ds_name", "origin_dataset"})
  ),
  samples=_samples,
  reads=frozenset(
    {"image", "image_path", "question", "chosen", "rejected", "idx"}
  ),
)
