"""ms-swift's chats, with a rejected answer or without.

    {messages: [{role, content}], rejected_response, images}
    {messages, rejected_messages, images, rejected_images}
    {query, response, history: [[q, a]], system, rejected_response, images}
    {conversation: [{human, assistant}], system, rejected_response, images}
    {instruction, input, output, rejected_response, images}

modelscope/ms-swift, docs/source_en/Customization/Custom-dataset.md.
"""

from collections.abc import Iterable

from povid_jax.data.formats import base
from povid_jax.data.formats.base import Format, Pick, Row
from povid_jax.data.pairs import Sample

_SINGLE = (("query", "response"), ("instruction", "output"))


def _rejected(row: Row, turns: tuple[str, ...]) -> tuple[str, ...] | None:
  said, field = row.get("rejected_response"), "rejected_messages"
  if said is not None:
    return (*turns[:-1], base.words(said, "rejected_response"))
  if row.get(field) is None:
    return None
  _, rejected = base.conversation(row[field], field)
  return base.same_questions(rejected, turns, field, "messages")


def _turns(row: Row) -> tuple[str | None, tuple[str, ...]]:
  """(system, turns) with the correct answer."""
  if "messages" in row:
    return base.conversation(row["messages"], "messages")
  if "conversation" in row:
    held = row["conversation"]
    if not isinstance(held, list) or not all(isinstance(x, dict) for x in held):
      raise base.Malformed("conversation: want a list of {human, assistant}")
    spoken = [(x.get("human"), x.get("assistant")) for x in held]
    said = [base.words(turn, "conversation") for two in spoken for turn in two]
    if not said:
      raise base.Malformed("conversation is empty")
    return None, tuple(said)
  found = [two for two in _SINGLE if two[0] in row]
  if not found:
    raise base.Malformed("messages is missing")
  ask, answer = found[0]
  alpaca = ask == "instruction"
  asked = base.instruction(row) if alpaca else base.words(row[ask], ask)
  answered = base.words(base.need(row, answer), answer)
  return None, (*base.history(row), asked, answered)


def _matches(row: Row) -> bool:
  chats = row.keys() & {"messages", "conversation"}
  return bool(chats) or any(base.is_text(row, *two) for two in _SINGLE)


def _samples(row: Row, pick: Pick) -> Iterable[Sample]:
  system, turns = _turns(row)
  images = base.images(row, pick, turns_of=("messages",))
  others = row.get("rejected_images")
  if others and base.pictures(others, "rejected_images", pick) != images:
    raise base.Malformed(
      "rejected_images differ from images; want the same pictures for both "
      "answers"
    )
  if row.get("system"):
    system = base.text(row["system"], "system")
  name = base.row_id(row.get("id"))
  yield Sample(name, images, turns, _rejected(row, turns), system=system)


FORMAT = Format(
  name="ms_swift",
  title="ms-swift",
  keys=("messages", "rejected_response", "images"),
  matches=_matches,
  samples=_samples,
  reads=frozenset(
    {"id", "image", "images", "messages", "system", "rejected_response"}
    | {"rejected_messages", "rejected_images"}
    | {"query", "response", "history", "conversation"}
    | {"instruction", "input", "output"}
  ),
)
