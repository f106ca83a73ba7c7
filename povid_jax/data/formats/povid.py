"""The released POVID preference data, and what `data_gen` writes.

    {id, image, conversations, rejected_conversations}

and of `data_gen sample --unit=sentence` also `context`, the answer so far, and
`end_scored`, whether the last turns end their answer (records.Record has both).

YiyangAiLab/POVID_preference_data_for_VLLMs; conversations are LLaVA's lists of
{from, value}, with the same human turns in both.
"""

from collections.abc import Iterable

from povid_jax.data.formats import base
from povid_jax.data.formats.base import Format, Pick, Row
from povid_jax.data.pairs import Sample


def images(row: Row, pick: Pick) -> tuple[base.Picture, ...]:
  """The pictures of LLaVA's rows: `image`, or `images` of later code."""
  if row.get("image") is not None and row.get("images") is not None:
    raise base.Malformed("image and images are both there; want one of them")
  field = "images" if row.get("images") is not None else "image"
  return base.pictures(row.get(field), field, pick)


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
  context = base.text(row.get("context") or "", "context")
  end = row.get("end_scored")
  if not isinstance(end, bool | None):
    raise base.Malformed(f"end_scored is {base.kind(end)}; want true or false")
  yield Sample(
    *(name, images(row, pick), turns, rejected),
    system=system,
    context=context,
    end_scored=end,
  )


FORMAT = Format(
  name="povid",
  title="released POVID",
  keys=("conversations", "rejected_conversations"),
  matches=lambda row: "rejected_conversations" in row,
  samples=_samples,
  reads=frozenset(
    {"id", "image", "images", "conversations", "rejected_conversations"}
    | {"context", "end_scored"}
  ),
  own_ids=True,
)
