"""TRL's preference data for vision models, in its four spellings.

    {images, prompt, chosen, rejected}   chats ({role, content}), or texts
    {images, chosen, rejected}           the prompt is what both chats share

huggingface/trl, docs/source/dataset_formats.md; `content` is a string or a list
of {type: "image"} and {type: "text", text}.
"""

from collections.abc import Iterable
from typing import Any

from povid_jax.data.formats import base
from povid_jax.data.formats.base import Format, Pick, Row
from povid_jax.data.pairs import Sample


def _turns(
  prompt: Any, answer: Any, field: str
) -> tuple[str | None, tuple[str, ...]]:
  """(system, turns) of a prompt and one of its answers."""
  if isinstance(prompt, str):
    prompt = [{"role": "user", "content": prompt}]
  if isinstance(answer, str):
    answer = [{"role": "assistant", "content": answer}]
  prompt = [prompt] if isinstance(prompt, dict) else prompt or []
  answer = [answer] if isinstance(answer, dict) else answer
  for name, value in (("prompt", prompt), (field, answer)):
    if not isinstance(value, list):
      raise base.Malformed(f"{name} is {base.kind(value)}; want a chat")
  return base.conversation([*prompt, *answer], field)


def _samples(row: Row, pick: Pick) -> Iterable[Sample]:
  prompt = row.get("prompt")
  system, turns = _turns(prompt, base.need(row, "chosen"), "chosen")
  _, rejected = _turns(prompt, base.need(row, "rejected"), "rejected")
  rejected = base.same_questions(rejected, turns, "rejected", "chosen")
  name = base.row_id(row.get("id"))
  held = base.images(row, pick, turns_of=("prompt",) if prompt else ("chosen",))
  yield Sample(name, held, turns, rejected, system=system)


def _matches(row: Row) -> bool:
  if not row.keys() >= {"chosen", "rejected"} or "question" in row:
    return False
  kinds = {type(row["chosen"]), type(row["rejected"])}
  if kinds == {list}:
    return all(isinstance(turn, dict) for turn in row["chosen"])
  # One message without a list around it is as good.
  return kinds in ({str}, {dict}) and isinstance(
    row.get("prompt"), str | list | dict
  )


FORMAT = Format(
  name="trl",
  title="TRL",
  keys=("images", "prompt", "chosen", "rejected"),
  matches=_matches,
  samples=_samples,
  reads=frozenset({"id", "image", "images", "prompt", "chosen", "rejected"}),
)
