"""SPA-VL: safety; question and answers beside the picture.

    {image, question, chosen, rejected}

sqrti/SPA-VL; the plainest table of pairs, so other people's are read as well.
"""

from collections.abc import Iterable

from povid_jax.data.formats import answers, base
from povid_jax.data.formats.base import Format, Pick, Row
from povid_jax.data.pairs import Sample


def _samples(row: Row, pick: Pick) -> Iterable[Sample]:
  yield answers.pair(
    base.images(row, pick),
    base.need(row, "question"),
    base.need(row, "chosen"),
    base.need(row, "rejected"),
    name=base.row_id(row.get("id")),
  )


FORMAT = Format(
  name="spa_vl",
  title="SPA-VL",
  keys=("image", "question", "chosen", "rejected"),
  matches=lambda row: answers.matches(row) and "context" not in row,
  samples=_samples,
  reads=frozenset({"id", "image", "images", "question", "chosen", "rejected"}),
)
