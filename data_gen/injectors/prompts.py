"""What a vision model is asked, and how its reply is read.

Two tasks. For descriptions: the same text with objects that often occur in such
scenes but are absent, wrong attributes and wrong relations. For questions: an
error early in the reasoning that carries through to a wrong final answer.
"""

import difflib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from data_gen.gates import Refused
from data_gen.items import CAPTIONING, Item
from povid_jax.llm import Reply, Request

# Recorded with every pair; a new wording is a new version.
VERSION = 1

KINDS = ("object", "attribute", "relation", "count", "reasoning", "answer")

_SYSTEM = (
  "You prepare contrastive training data for a vision-language model that "
  "should learn to describe only what it sees. You are shown an image and a "
  "conversation whose answers are correct. You write the answers that a "
  "careless model would have given: fluent, confident and plausible, but wrong "
  "about this image. The wrong answers serve as negative examples only."
)
_CAPTIONING = (
  "The answers describe the image. In each of them bring in a few errors that "
  "a reader without the image could not notice:\n"
  "- objects that usually go with the ones shown but are not in the image; "
  "mostly put them in the place of an object that is there, rarely add one;\n"
  "- wrong attributes: colour, number, size, material, position, state or "
  "action;\n"
  "- wrong relations between the things or people shown: who does what, what "
  "is where."
)
_REASONING = (
  "The answers reply to questions. In each of them bring in an error about the "
  "image (an object that usually goes with the ones shown but is not there, a "
  "confused attribute, number or relation), draw on it as the reasoning goes "
  "on, and so come to a wrong conclusion. Where there is a final answer, it "
  "must be wrong: the other of yes and no, another option, number, name or "
  "place. A short answer becomes another short answer of the same kind."
)
_RULES = (
  "Keep everything else: the sentences and their order, the length, the tone, "
  'the language and the format (a line that starts with "Answer:" stays '
  "one). Do not hint that something is wrong, do not comment, use no mark-up, "
  "and do not name anything that really is in the image as an error. "
  "Questions are not to be changed."
)
_STRUCTURED = (
  "Reply in JSON: `rejected` holds the wrong answers, exactly one for each "
  "answer and in the same order; `edits` lists every change: `turn` (0 for the "
  "first answer), `span` (the new words exactly as they stand in the wrong "
  "answer), `original` (the words they replace, empty if nothing was "
  "replaced), `kind` ("
  + ", ".join(KINDS)
  + ") and `change` (what is now wrong, in a few words)."
)
PLAIN_ONE = "Reply with the wrong answer only, nothing before or after it."
PLAIN_MANY = (
  "Reply with the wrong answers only, in order, each after a line that reads "
  "`[[answer N]]`, N being 0 for the first."
)

SCHEMA: dict[str, Any] = {
  "type": "object",
  "properties": {
    "rejected": {"type": "array", "items": {"type": "string"}},
    "edits": {
      "type": "array",
      "items": {
        "type": "object",
        "properties": {
          "turn": {"type": "integer"},
          "span": {"type": "string"},
          "original": {"type": "string"},
          "kind": {"type": "string", "enum": list(KINDS)},
          "change": {"type": "string"},
        },
        "required": ["turn", "span", "original", "kind", "change"],
        "additionalProperties": False,
      },
    },
  },
  "required": ["rejected", "edits"],
  "additionalProperties": False,
}

# Tokens of a reply beyond the answers: edits, JSON. Models that reason before
# they answer need more (`--reply-tokens`).
ROOM = 512

_MARK = re.compile(r"^\s*\[\[answer (\d+)\]\]\s*$", re.M)
_TOKEN = re.compile(r"\w+(?:[-']\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Proposal:
  """A reply read: the wrong answers, their edits, or why it is unusable."""

  rejected: list[str]
  edits: list[dict]
  refused: Refused | None = None
  chosen: list[str] | None = None  # where the item's answers are not right


def describes(item: Item) -> bool:
  """Whether the captioning prompt is meant for an item."""
  return item.category in (CAPTIONING, "detail", "description", "caption")


def task(item: Item, structured: bool, seed: int = 0) -> str:
  """The text that goes with the picture."""
  plain = PLAIN_ONE if len(item.answers) == 1 else PLAIN_MANY
  parts = [
    _CAPTIONING if describes(item) else _REASONING,
    _RULES,
    _STRUCTURED if structured else plain,
    conversation(item),
  ]
  if seed:  # another pair of the same sample, or a new try
    parts.append(f"Choose other errors than the most obvious ones ({seed}).")
  return "\n\n".join(parts)


def conversation(item: Item) -> str:
  """The questions and answers of an item, as a model is shown them."""
  rows = [
    {"question": question, "answer": answer}
    for question, answer in zip(item.questions, item.answers, strict=True)
  ]
  return "Conversation:\n" + json.dumps(rows, ensure_ascii=False, indent=1)


def request(
  item: Item, pictures: Sequence[tuple], attempt: int, room: int = ROOM
) -> Request:
  """The request for wrong answers to one item; see `ask`."""
  seed = item.variant * 100 + attempt

  def words(structured: bool) -> str:
    return task(item, structured, seed)

  return ask(item, pictures, attempt, room, _SYSTEM, words, SCHEMA)


def ask(
  item: Item,
  pictures: Sequence[tuple],
  attempt: int,
  room: int,
  system: str,
  words: Callable[[bool], str],
  schema: dict[str, Any],
) -> Request:
  """A request about the pictures and the conversation of one item.

  Args:
    item: the conversation.
    pictures: (message part, width, height) of each, see
      `povid_jax.llm.image_part`; tokens are counted by the caller.
    attempt: 0, then one more for each reply that a gate refused.
    room: tokens of a reply beyond those of the answers.
    system: the system's words.
    words: the text that goes with the pictures; whether JSON is wanted.
    schema: of a reply in JSON.
  """
  parts = [part for part, _, _ in pictures]

  def messages(structured: bool) -> list[dict]:
    text = {"type": "text", "text": words(structured)}
    return [
      {"role": "system", "content": system},
      {"role": "user", "content": [*parts, text]},
    ]

  size = sum(len(answer) for answer in item.answers)
  return Request(
    key=item.key,
    messages=messages(True),
    schema=schema,
    plain=messages(False),
    # More for a new try: the reply before it may have been cut off.
    max_tokens=(room + size) << min(attempt, 2),
    context=item,
  )


def read(item: Item, reply: Reply) -> Proposal:
  """Reads a reply; what cannot be used carries the gate that says so."""
  unusable = refused_reply(reply)
  if unusable:
    return unusable
  if not reply.structured and not _looks_structured(reply.parsed):
    return _read_plain(item, reply.text)
  return _read_structured(item, reply)


def refused_reply(reply: Reply) -> Proposal | None:
  """The proposal of a reply that is none: declined, cut off, empty."""
  if reply.declined:
    return refuse("refusal", reply.declined)
  if reply.defect:
    return refuse("empty" if reply.whole else "schema", reply.defect)
  return None


def refuse(reason: str, detail: str) -> Proposal:
  """The proposal of a reply that cannot be used, with the gate for it."""
  return Proposal([], [], Refused(reason, detail[:300]))


def _looks_structured(parsed: Any) -> bool:
  return isinstance(parsed, dict) and "rejected" in parsed


def _read_structured(item: Item, reply: Reply) -> Proposal:
  data = reply.parsed
  if not _looks_structured(data):
    return refuse("schema", reply.text)
  rejected, edits = data["rejected"], data.get("edits", [])
  if isinstance(rejected, str):
    rejected = [rejected]
  wrong = not isinstance(rejected, list) or not isinstance(edits, list)
  if wrong or not all(isinstance(text, str) for text in rejected):
    return refuse("schema", reply.text)
  if len(rejected) != len(item.answers):
    return refuse(
      "schema", f"{len(rejected)} answers, want {len(item.answers)}"
    )
  if not all(isinstance(e, dict) and "span" in e for e in edits):
    return refuse("schema", reply.text)
  rejected = [text.strip() for text in rejected]
  # A reply without a list of edits is also usable: the edits are found by
  # comparing the texts.
  found = [_edit(item, e) for e in edits] or _found(item, rejected)
  return Proposal(rejected, found)


def _found(item: Item, rejected: Sequence[str]) -> list[dict]:
  """The edits of all answers, found by comparing words."""
  edits = []
  for turn, (old, new) in enumerate(zip(item.answers, rejected, strict=True)):
    for edit in differences(old, new):
      edits.append(edit | ({"turn": turn} if len(rejected) > 1 else {}))
  return edits


def _edit(item: Item, edit: dict) -> dict:
  """The edit with the keys that pairs have."""
  result = {
    "span": str(edit["span"]),
    "original": str(edit.get("original", "")),
    "kind": edit["kind"] if edit.get("kind") in KINDS else "other",
  }
  if edit.get("change"):
    result["change"] = str(edit["change"])[:200]
  if len(item.answers) > 1 and isinstance(edit.get("turn"), int):
    result["turn"] = edit["turn"]
  return result


def _read_plain(item: Item, text: str) -> Proposal:
  """Plain text: the answers, with edits found by comparing words."""
  rejected = plain_answers(item, text)
  if len(rejected) != len(item.answers):
    return refuse("schema", f"no marks between {len(item.answers)} answers")
  return Proposal(rejected, _found(item, rejected))


def plain_answers(item: Item, text: str) -> list[str]:
  """The answers of a reply in plain text, by the marks between them."""
  pieces = _MARK.split(text)
  if len(pieces) == 1:
    return [text.strip().strip('"')]
  marked = zip(pieces[1::2], pieces[2::2], strict=True)
  found = {int(number): answer.strip() for number, answer in marked}
  return [found.get(i, "") for i in range(len(item.answers))]


def differences(old: str, new: str) -> list[dict]:
  """The edits between two texts, word by word."""
  before, after = list(_TOKEN.finditer(old)), list(_TOKEN.finditer(new))
  matcher = difflib.SequenceMatcher(
    None,
    [m.group() for m in before],
    [m.group() for m in after],
    autojunk=max(len(before), len(after)) > 1000,
  )
  return [
    {"span": _cut(new, after[k:l]), "original": _cut(old, before[i:j]),
     "kind": "other"}
    for tag, i, j, k, l in matcher.get_opcodes()
    if tag != "equal"
  ]  # fmt: skip


def _cut(text: str, tokens: Sequence[re.Match]) -> str:
  return text[tokens[0].start() : tokens[-1].end()] if tokens else ""
