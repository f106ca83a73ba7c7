"""RLHF-V: human corrections; question and answers as JSON in one string.

    {image, text: '{"question", "chosen", "rejected"}', idx, ds_name, ...}

openbmb/RLHF-V-Dataset.
"""

from collections.abc import Iterable

from povid_jax import files
from povid_jax.data.formats import answers, base, rlaif_v
from povid_jax.data.formats.base import Format, Pick, Row
from povid_jax.data.pairs import Sample
from povid_jax.errors import UserError


def _samples(row: Row, pick: Pick) -> Iterable[Sample]:
  try:
    inner = files.decode_json(base.text(base.need(row, "text"), "text"), "text")
  except UserError as error:
    raise base.Malformed(str(error)) from error
  if not isinstance(inner, dict):
    raise base.Malformed(f"text holds {base.kind(inner)}; want an object")
  yield answers.pair(
    rlaif_v.images(row, pick),
    base.need(inner, "question"),
    base.need(inner, "chosen"),
    base.need(inner, "rejected"),
    name=rlaif_v.made_id(row),
    fields=("text.question", "text.chosen", "text.rejected"),
  )


FORMAT = Format(
  name="rlhf_v",
  title="RLHF-V",
  keys=("image", "text"),
  matches=lambda row: (
    base.is_text(row, "text")
    and '"rejected"' in row["text"]
    and bool(row.keys() & {"image", "image_path"})
  ),
  samples=_samples,
  reads=frozenset({"image", "text", "idx", "image_path"}),
)
