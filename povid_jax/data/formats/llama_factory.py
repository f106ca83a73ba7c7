"""LLaMA-Factory's preference data, its two layouts.

    sharegpt  {conversations, chosen: {from, value}, rejected: {...}, images}
    alpaca    {instruction, input, chosen, rejected, images, history, system}

hiyouga/LLaMA-Factory, data/README.md: `conversations` (or `messages`) ends with
a question, to which `chosen` and `rejected` are the answers. SENTINEL's files
for it have a `context` beside them.
"""

from collections.abc import Iterable

from povid_jax.data.formats import base, context
from povid_jax.data.formats.base import Format, Pick, Row
from povid_jax.data.pairs import Sample


def _answer(row: Row, field: str) -> str:
  turn = base.need(row, field)
  if isinstance(turn, str):
    return base.words(turn, field)
  opened = [{"from": "human", "value": "q"}, turn]
  _, turns = base.conversation(opened, field)
  return turns[1]


def _sharegpt(row: Row) -> tuple[str | None, tuple[str, ...]]:
  field = "messages" if "messages" in row else "conversations"
  return base.conversation(base.need(row, field), field, last="human")


def _alpaca(row: Row) -> tuple[str | None, tuple[str, ...]]:
  return None, (*base.history(row), base.instruction(row))


def _samples(row: Row, pick: Pick) -> Iterable[Sample]:
  system, turns = _alpaca(row) if "instruction" in row else _sharegpt(row)
  if row.get("system"):
    system = base.text(row["system"], "system")
  sample = Sample(
    base.row_id(row.get("id")),
    base.images(row, pick, turns_of=("conversations", "messages")),
    (*turns, _answer(row, "chosen")),
    (*turns, _answer(row, "rejected")),
    system=system,
  )
  yield context.after(sample, row.get("context"))


def _matches(row: Row) -> bool:
  if not row.keys() >= {"chosen", "rejected"}:
    return False
  turn = isinstance(row["chosen"], dict) and isinstance(row["rejected"], dict)
  if bool(row.keys() & {"conversations", "messages"}):
    return turn
  return base.is_text(row, "instruction", "chosen", "rejected")


FORMAT = Format(
  name="llama_factory",
  title="LLaMA-Factory",
  keys=("conversations", "chosen", "rejected"),
  matches=_matches,
  samples=_samples,
  reads=frozenset(
    {"id", "image", "images", "conversations", "messages", "instruction"}
    | {"input", "history", "system", "context", "chosen", "rejected"}
  ),
)
