"""The released POVID preference data, and what `data_gen` writes.

    {id, image, conversations, rejected_conversations}

and the keys of context.py.

YiyangAiLab/POVID_preference_data_for_VLLMs; conversations are LLaVA's lists of
{from, value}, with the same human turns in both.
"""

from collections.abc import Iterable

from povid_jax.data.formats import base, context
from povid_jax.data.formats.base import Format, Pick, Row
from povid_jax.data.pairs import Sample


def _samples(row: Row, pick: Pick) -> Iterable[Sample]:
  name = base.row_id(row["id"]) if "id" in row else ""
  if "id" in row and not name:
    raise base.Malformed("id is null; want a string")
  field, other = "rejected_conversations", "conversations"
  system, turns = base.conversation(base.need(row, other), other)
  rejected = None
  if row.get(field) is not None:
    _, rejected = base.conversation(row[field], field)
    rejected = base.same_questions(rejected, turns, field, other)
  sample = Sample(name, base.images(row, pick), turns, rejected, system=system)
  yield context.add(sample, row)


FORMAT = Format(
  name="povid",
  title="released POVID",
  keys=("conversations", "rejected_conversations"),
  matches=lambda row: "rejected_conversations" in row,
  samples=_samples,
  reads=context.KEYS
  | {"id", "image", "images", "conversations", "rejected_conversations"},
  own_ids=True,
)
