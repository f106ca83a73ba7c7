"""`--correct`: a vision model corrects a model's own answers.

The corrected answer is chosen, the model's own is rejected: they differ in what
the model invented and in little else (OPA-DPO, zhyang2226/OPA-DPO, whose paper
sums log-probabilities over an answer, as our `dpo` does; its code does not).
"""

from collections.abc import Sequence
from typing import Any

from data_gen.injectors import prompts
from data_gen.injectors.asking import Task
from data_gen.injectors.prompts import (
  ROOM,
  Proposal,
  differences,
  refused_reply,
)
from data_gen.items import Item
from povid_jax.llm import Reply, Request

VERSION = 1

_SYSTEM = (
  "You correct what a vision-language model said about an image. You are shown "
  "the image and a conversation whose answers the model wrote."
)
_RULES = (
  "Correct every statement that the image does not bear out: things that are "
  "not there, wrong colours, numbers, sizes, materials, positions, actions, "
  "texts and conclusions. Change as few words as possible and keep all others, "
  "their order, the tone, the length, the language and the format. A thing "
  "that is not there is replaced by what is there in its place, or its clause "
  "is left out. Add no detail that the answer does not speak of, do not "
  "comment, use no mark-up. An answer that is right stays as it is, word for "
  "word. Questions are not to be changed."
)
_STRUCTURED = (
  "Reply in JSON: `corrected` holds the corrected answers, exactly one for "
  "each answer and in the same order."
)
SCHEMA: dict[str, Any] = {
  "type": "object",
  "properties": {
    "corrected": {"type": "array", "items": {"type": "string"}},
  },
  "required": ["corrected"],
  "additionalProperties": False,
}


def request(
  item: Item, pictures: Sequence[tuple], attempt: int, room: int = ROOM
) -> Request:
  """The request for one item; see `prompts.ask`."""
  one = len(item.answers) == 1
  plain = prompts.PLAIN_ONE if one else prompts.PLAIN_MANY
  plain = plain.replace("wrong", "corrected")

  def words(structured: bool) -> str:
    parts = [
      _RULES,
      _STRUCTURED if structured else plain,
      prompts.conversation(item),
    ]
    if attempt:
      parts.append(f"Look once more, closely ({attempt}).")
    return "\n\n".join(parts)

  return prompts.ask(item, pictures, attempt, room, _SYSTEM, words, SCHEMA)


def read(item: Item, reply: Reply) -> Proposal:
  """The corrected answers as the chosen ones, the model's own as rejected."""
  unusable = refused_reply(reply)
  if unusable:
    return unusable
  data = reply.parsed
  if isinstance(data, dict) and "corrected" in data:
    corrected = data["corrected"]
    corrected = [corrected] if isinstance(corrected, str) else corrected
  elif reply.structured:
    return prompts.refuse("schema", reply.text)
  else:
    corrected = prompts.plain_answers(item, reply.text)
  if not isinstance(corrected, list) or not all(
    isinstance(text, str) for text in corrected
  ):
    return prompts.refuse("schema", reply.text)
  if len(corrected) != len(item.answers):
    return prompts.refuse(
      "schema", f"{len(corrected)} answers, want {len(item.answers)}"
    )
  corrected = [text.strip() for text in corrected]
  own = list(item.answers)
  edits = []
  for turn, (right, wrong) in enumerate(zip(corrected, own, strict=True)):
    for edit in differences(right, wrong):
      edits.append(edit | ({"turn": turn} if len(own) > 1 else {}))
  return Proposal(own, edits, chosen=corrected)


CORRECT = Task(
  label=f"correct-{VERSION}", request=request, read=read, schema=SCHEMA
)
