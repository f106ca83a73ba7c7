"""What a preference format is, and the parts that several of them share."""

import base64
import binascii
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from povid_jax.data.pairs import Sample
from povid_jax.data.picture import Picture

Row = dict[str, Any]
# Of several names that a picture may have, the first that is in the folder.
Pick = Callable[[Sequence[str]], str]

IMAGE = "<image>"
_HUMAN = {"human", "user"}
_ANSWER = {"gpt", "assistant", "model", "chatgpt", "bot"}
_SYSTEM = {"system"}


class Malformed(Exception):
  """The error of one row; the reader adds where the row is."""


@dataclasses.dataclass(frozen=True)
class Format:
  """One layout of rows.

  Attributes:
    name: for `--format`.
    title: for messages.
    keys: the keys that identify it, for messages and the documentation.
    matches: whether a row has this format, by its keys and the types of their
      values.
    samples: the samples of one row, pictures without their folder; an id "" is
      made by the reader.
    reads: keys that `samples` uses. The others are kept in `Sample.extra`.
    own_ids: ids are kept as they are, even where several rows share one.
  """

  name: str
  title: str
  keys: tuple[str, ...]
  matches: Callable[[Row], bool]
  samples: Callable[[Row, Pick], Iterable[Sample]]
  reads: frozenset[str]
  own_ids: bool = False


def kind(value: object) -> str:
  """The type of a value as JSON names it."""
  names = {dict: "an object", list: "a list", str: "a string", int: "a number",
           bool: "true or false", float: "a number",
           type(None): "null"}  # fmt: skip
  return names.get(type(value), type(value).__name__)


def text(value: object, field: str) -> str:
  """A string; raises Malformed for anything else."""
  if not isinstance(value, str):
    raise Malformed(f"{field} is {kind(value)}; want a string")
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise Malformed(
      f"{field} holds half a surrogate pair, which is not valid Unicode; "
      "correct the text"
    ) from error
  return value


def words(value: object, field: str) -> str:
  """A string that is not blank."""
  if not text(value, field).strip():
    raise Malformed(f"{field} is empty; want text")
  return str(value)


def need(row: Row, field: str) -> Any:
  """row[field]; raises Malformed where the key is missing."""
  if field not in row:
    raise Malformed(f"{field} is missing")
  return row[field]


def row_id(value: object) -> str:
  """An id as text; "" for None: the reader makes one."""
  if value is None:
    return ""
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  if not (name := text(value, "id")):
    raise Malformed("id is empty")
  return name


# --- pictures --------------------------------------------------------------

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.I)
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")
_LONGEST_NAME = 4096  # a longer string is a picture in base64


def _inline(value: str) -> bytes | None:
  """The picture that a string holds in base64, None for a file name."""
  found = _DATA_URL.match(value)
  if found is None and len(value) <= _LONGEST_NAME:
    return None
  try:
    data = base64.b64decode(value[found.end() if found else 0 :], validate=True)
  except (binascii.Error, ValueError):
    return None
  return data if found or data.startswith(_MAGIC) else None


def _picture(value: object, field: str, pick: Pick) -> Picture:
  if isinstance(value, Picture):
    return value
  if isinstance(value, dict) and value.keys() & {"bytes", "path"}:
    data, path = value.get("bytes"), value.get("path")
    if isinstance(data, str):
      data = _inline(f"data:image/any;base64,{data}")
    if isinstance(data, bytes):
      return Picture(str(path or field), data=data)
    return _picture(path, f"{field}.path", pick)
  name = text(value, field)
  if not name:
    raise Malformed(f"{field} is an empty string; want a file name")
  if (data := _inline(name)) is not None:
    return Picture(field, data=data)
  if "://" in name:
    raise Malformed(
      f"{field} is the address {name[:60]!a}; pictures are not downloaded: "
      "save the picture and give its file name"
    )
  return Picture(pick([name]))


def pictures(value: object, field: str, pick: Pick) -> tuple[Picture, ...]:
  """The pictures that a row names or holds: none, one or a list of them.

  A file name, {bytes, path} as Hugging Face's datasets store it, a data URL,
  or what a table's reader has made of a cell.
  """
  if value is None:
    return ()
  many = value if isinstance(value, list) else [value]
  return tuple(_picture(one, field, pick) for one in many if one is not None)


def images(
  row: Row, pick: Pick, turns_of: Sequence[str] = ()
) -> tuple[Picture, ...]:
  """The pictures of a row: `image`, `images`, or inside its messages.

  Args:
    turns_of: keys of chats, in whose parts pictures are looked for where the
      row has none beside them: {type: "image", image} and {type: "image_url",
      image_url: {url}}.
  """
  if row.get("image") is not None and row.get("images") is not None:
    raise Malformed("image and images are both given; want only one of them")
  field = "images" if row.get("images") is not None else "image"
  if found := pictures(row.get(field), field, pick):
    return found
  for name in turns_of:
    found += tuple(
      _picture(held, f"{name}.content.image", pick)
      for held in _inside(row.get(name))
    )
  return found


def _inside(turns: object) -> Iterable[object]:
  """The pictures that parts of messages hold."""
  for turn in turns if isinstance(turns, list) else ():
    said = turn.get("content") if isinstance(turn, dict) else None
    for part in said if isinstance(said, list) else ():
      named = part.get("type") if isinstance(part, dict) else None
      held = part.get(named) if named in ("image", "image_url") else None
      held = held.get("url", held) if isinstance(held, dict) else held
      if held is not None:
        yield held


# --- texts and turns ----------------------------------------------------------


def content(value: object, field: str) -> str:
  """The text of a message: a string, or a list of parts of text and pictures.

  A picture's part becomes <image>.
  """
  if not isinstance(value, list):
    return text(value, field)
  out = ""
  for i, part in enumerate(value):
    if not isinstance(part, dict):
      raise Malformed(f"{field}[{i}] is {kind(part)}; want {{type, ...}}")
    if part.get("type") == "text":
      out += text(part.get("text"), f"{field}[{i}].text")
    elif part.get("type") in ("image", "image_url"):
      out += IMAGE + "\n"
    else:
      got = str(part.get("type"))[:40]
      raise Malformed(f"{field}[{i}].type is {got!a}; want text or image")
  return out


def _spoken(turn: object, where: str, expected: str) -> tuple[str, str]:
  """(role, text) of one turn, {from, value} or {role, content}."""
  if not isinstance(turn, dict):
    raise Malformed(f"{where} is {kind(turn)}; want {{from, value}}")
  said, who = ("content", "role") if "role" in turn else ("value", "from")
  role = str(turn.get(who))
  for want, names in (("human", _HUMAN), ("gpt", _ANSWER), ("system", _SYSTEM)):
    if role in names:
      return want, content(turn.get(said), f"{where}.{said}")
  raise Malformed(f"{where}.{who} is {role[:40]!a}; want {expected!r}")


def conversation(
  value: object, field: str, last: str = "gpt"
) -> tuple[str | None, tuple[str, ...]]:
  """(system prompt or None, turns) of a list of turns.

  Args:
    value: turns of {from, value} or {role, content}, human and gpt in turn
      after an optional turn of the system.
    field: for messages.
    last: the role of the last turn, "gpt" or "human".
  """
  if not isinstance(value, list):
    raise Malformed(f"{field} is {kind(value)}; want a list of turns")
  system, turns = None, []
  for i, turn in enumerate(value):
    where = f"{field}[{i}]"
    want = ("human", "gpt")[len(turns) % 2]
    role, said = _spoken(turn, where, want)
    if role == "system" and not turns and system is None:
      system = said
      continue
    if role != want:
      who = "role" if "role" in turn else "from"
      raise Malformed(f"{where}.{who} is {turn[who][:40]!a}; want {want!r}")
    if not said.strip():
      raise Malformed(f"{where}.value is empty; want text")
    turns.append(said)
  if not turns or (len(turns) % 2 == 0) != (last == "gpt"):
    ending = "an answer" if last == "gpt" else "a question"
    raise Malformed(
      f"{field} has {len(turns)} turns; want human and gpt in turn, "
      f"ending with {ending}"
    )
  return system or None, tuple(turns)


def instruction(row: Row) -> str:
  """Alpaca's question: `instruction`, and `input` below it."""
  asked = words(need(row, "instruction"), "instruction")
  if row.get("input"):
    asked = f"{asked}\n{text(row['input'], 'input')}"
  return asked


def history(row: Row) -> tuple[str, ...]:
  """The turns before, `history`: lists of question and answer."""
  said = row.get("history") or []
  if not isinstance(said, list):
    raise Malformed(f"history is {kind(said)}; want a list")
  turns: list[str] = []
  for i, both in enumerate(said):
    if not isinstance(both, list) or len(both) != 2:
      raise Malformed(f"history[{i}]: want a list of question and answer")
    turns += [words(turn, f"history[{i}]") for turn in both]
  return tuple(turns)


def question(turn: str) -> str:
  """A question without its pictures, to compare."""
  return turn.replace(IMAGE, "").strip()


def same_questions(
  rejected: Sequence[str], turns: Sequence[str], field: str, other: str
) -> tuple[str, ...]:
  """The rejected turns, with the same questions as in `turns`.

  Only answers may differ. Raises Malformed where a question differs, or where
  there are more or fewer turns.
  """
  if len(rejected) != len(turns):
    raise Malformed(
      f"{field} has {len(rejected)} turns, {other} {len(turns)}; "
      "want the same human turns"
    )
  for i in range(0, len(turns), 2):
    if question(rejected[i]) != question(turns[i]):
      raise Malformed(f"{field}[{i}].value differs from the one in {other}")
  return tuple(turn if i % 2 else turns[i] for i, turn in enumerate(rejected))


# Other projects' marks for a picture.
_MARKS = re.compile(
  r"<ImageHere>|<Image>|<IMG>|<image_placeholder>|<\|image(?:_pad)?\|>"
  r"|<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<img></img>"
)


def with_marks(sample: Sample, put: bool) -> Sample:
  """The sample with <image> in its questions, where they have none.

  Other projects' marks become <image>. Without any, and if `put`, the pictures
  are put in front of the first question, as those projects' loaders do.
  """
  asked = "".join(sample.turns[::2])
  other_marks = _MARKS.search(asked) is not None
  if not sample.images or IMAGE in asked or not (put or other_marks):
    return sample

  def first(turns: Sequence[str]) -> tuple[str, ...]:
    if other_marks:
      return tuple(
        said if i % 2 else _MARKS.sub(IMAGE, said)
        for i, said in enumerate(turns)
      )
    front = (IMAGE + "\n") * len(sample.images)
    return (front + turns[0], *turns[1:])

  rejected = sample.rejected
  return dataclasses.replace(
    sample,
    turns=first(sample.turns),
    rejected=None if rejected is None else first(rejected),
    more_rejected=tuple(
      dataclasses.replace(more, turns=first(more.turns))
      for more in sample.more_rejected
    ),
  )


def is_text(row: Row, *fields: str) -> bool:
  """Whether all of these keys hold strings."""
  return all(isinstance(row.get(field), str) for field in fields)
