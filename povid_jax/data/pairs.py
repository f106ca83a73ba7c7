"""Samples in JSON: the released preference format, in and out.

A list in a .json file or one object per line in a .jsonl file:

    {"id": "a", "image": "a.jpg",
     "conversations": [{"from": "human", "value": "<image>\\nDescribe it."},
                       {"from": "gpt", "value": "A dog."}],
     "rejected_conversations": [...same human turns...]}

`image` may be a list of names, or absent. Other keys are kept.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.files import atomic_write

_KEYS = ("id", "image", "conversations", "rejected_conversations")
_ROLES = ("human", "gpt")


@dataclasses.dataclass(frozen=True)
class Sample:
  """One row: turns alternate, a human one first, an answer last."""

  id: str
  images: tuple[str, ...]
  turns: tuple[str, ...]
  rejected: tuple[str, ...] | None = None
  extra: dict[str, Any] = dataclasses.field(default_factory=dict)


class _Malformed(Exception):
  """What is wrong with one row; the caller knows where the row is."""


def _kind(value: object) -> str:
  names = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
  }
  return names.get(type(value), type(value).__name__)


def _text(value: object, field: str) -> str:
  if not isinstance(value, str):
    raise _Malformed(f"{field} is {_kind(value)}; want a string")
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise _Malformed(f"{field} holds half a surrogate pair") from error
  return value


def _id(value: object) -> str:
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  if not (name := _text(value, "id")):
    raise _Malformed("id is empty")
  return name


def _images(value: object) -> tuple[str, ...]:
  if value is None:
    return ()
  if not isinstance(value, list):
    value = [value]
  names = tuple(_text(name, "image") for name in value)
  if not all(names):
    raise _Malformed("image is an empty string; want a file name")
  return names


def _turns(value: object, field: str) -> tuple[str, ...]:
  if not isinstance(value, list):
    raise _Malformed(f"{field} is {_kind(value)}; want a list of turns")
  if not value or len(value) % 2:
    raise _Malformed(
      f"{field} has {len(value)} turns; want human and gpt in turn, "
      "ending with an answer"
    )
  turns = []
  for i, turn in enumerate(value):
    where = f"{field}[{i}]"
    if not isinstance(turn, dict):
      raise _Malformed(f"{where} is {_kind(turn)}; want {{from, value}}")
    if turn.get("from") != (role := _ROLES[i % 2]):
      got = str(turn.get("from"))[:40]
      raise _Malformed(f"{where}.from is {got!a}; want {role!r}")
    text = _text(turn.get("value"), f"{where}.value")
    if not text.strip():
      raise _Malformed(f"{where}.value is empty; want text")
    turns.append(text)
  return tuple(turns)


def _question(turn: str) -> str:
  return turn.replace("<image>", "").strip()


def _rejected(value: object, turns: Sequence[str]) -> tuple[str, ...]:
  field = "rejected_conversations"
  rejected = _turns(value, field)
  if len(rejected) != len(turns):
    raise _Malformed(
      f"{field} has {len(rejected)} turns, conversations {len(turns)}; "
      "want the same human turns"
    )
  for i in range(0, len(turns), 2):
    if _question(rejected[i]) != _question(turns[i]):
      raise _Malformed(f"{field}[{i}].value is not the one in conversations")
  # The question once, as `conversations` has it: only answers may differ.
  return tuple(turn if i % 2 else turns[i] for i, turn in enumerate(rejected))


def parse_sample(row: object) -> Sample:
  """One decoded JSON object as a Sample; UserError names id and field."""
  try:
    return _parse(row)
  except _Malformed as error:
    name = row.get("id") if isinstance(row, dict) else None
    label = f"id {str(name)[:80]!a}, " if name is not None else ""
    raise UserError(f"{label}{error}") from error


def _parse(row: object) -> Sample:
  if not isinstance(row, dict):
    raise _Malformed(f"is {_kind(row)}; want an object")
  for field in ("id", "conversations"):
    if field not in row:
      raise _Malformed(f"{field} is missing")
  turns = _turns(row["conversations"], "conversations")
  rejected = row.get("rejected_conversations")
  return Sample(
    id=_id(row["id"]),
    images=_images(row.get("image")),
    turns=turns,
    rejected=None if rejected is None else _rejected(rejected, turns),
    extra={key: value for key, value in row.items() if key not in _KEYS},
  )


def _load(text: str, where: str) -> Any:
  try:
    return json.loads(text)
  except RecursionError as error:
    raise UserError(f"{where}: nested too deeply") from error
  except ValueError as error:
    raise UserError(f"{where}: not JSON: {error}") from error


def _lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
  # Not splitlines: JSON strings may hold the other line ends of Unicode.
  for i, line in enumerate(text.split("\n"), start=1):
    if line.strip():
      yield f"{path}, line {i}", line


def _rows(path: Path, text: str) -> Iterator[tuple[str, Callable[[], Any]]]:
  """Yields (where, function that gives the row or raises UserError)."""
  if path.suffix == ".jsonl":
    for where, line in _lines(path, text):
      yield where, lambda where=where, line=line: _load(line, where)
    return
  rows = _load(text, str(path))
  if not isinstance(rows, list):
    raise UserError(
      f"{path}: is {_kind(rows)}; want a list of samples "
      "(or name the file .jsonl for one sample per line)"
    )
  for i, row in enumerate(rows):
    yield f"{path}, index {i}", lambda row=row: row


def _read_text(path: Path) -> str:
  try:
    return path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error
  except OSError as error:
    raise UserError(f"{path}: {error.strerror or error}") from error


def read_samples(
  path: str | Path, on_bad: Callable[[UserError], None] | None = None
) -> list[Sample]:
  """Reads every sample of a .json or .jsonl file, in order.

  Args:
    path: the file.
    on_bad: called with the error of each malformed row, which is then left
      out; without it the first one is raised.

  Raises:
    UserError: names the file, the index (.json, from 0) or line (.jsonl, from
      1), the id and the field.
  """
  path = Path(path)
  samples = []
  for where, load in _rows(path, _read_text(path)):
    try:
      try:
        samples.append(parse_sample(load()))
      except UserError as error:
        if str(error).startswith(where):
          raise
        raise UserError(f"{where}: {error}") from error
    except UserError as error:
      if on_bad is None:
        raise
      on_bad(error)
  return samples


def to_json(sample: Sample) -> dict[str, Any]:
  """The sample as the JSON object that `read_samples` reads."""

  def rows(turns: Sequence[str]) -> list[dict[str, str]]:
    return [
      {"from": _ROLES[i % 2], "value": turn} for i, turn in enumerate(turns)
    ]

  row: dict[str, Any] = {"id": sample.id}
  if sample.images:
    one = len(sample.images) == 1
    row["image"] = sample.images[0] if one else list(sample.images)
  row["conversations"] = rows(sample.turns)
  if sample.rejected is not None:
    row["rejected_conversations"] = rows(sample.rejected)
  return row | sample.extra


def _dump(row: dict[str, Any]) -> str:
  text = json.dumps(row, ensure_ascii=False)
  try:
    text.encode()
  except UnicodeEncodeError:  # a lone surrogate in a key that we only keep
    return json.dumps(row)
  return text


def write_samples(path: str | Path, samples: Iterable[Sample]) -> None:
  """Writes a .jsonl or (any other name) a JSON list, whole or not at all."""
  path = Path(path)
  with atomic_write(path) as file:
    if path.suffix == ".jsonl":
      for sample in samples:
        file.write(_dump(to_json(sample)) + "\n")
      return
    file.write("[")
    for i, sample in enumerate(samples):
      file.write((",\n" if i else "\n") + _dump(to_json(sample)))
    file.write("\n]\n")


def split_turns(
  sample: Sample,
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...] | None]:
  """Splits a sample into what is given and what is answered.

  Turns q1 a1 q2 a2 against q1 a1 q2 b2 give
  prompt (q1, a1, q2), chosen (a2,), rejected (b2,).

  Returns:
    (prompt, chosen, rejected). The prompt ends with a human turn: the last one
    before the conversations part, or the first one of all if there is nothing
    rejected. The answers start with a gpt turn. Two equal conversations part at
    their last answer.
  """
  turns, rejected = sample.turns, sample.rejected
  if rejected is None:
    return turns[:1], turns[1:], None
  cut = len(turns) - 1
  for i in range(1, len(turns), 2):
    if turns[i] != rejected[i]:
      cut = i
      break
  return turns[:cut], turns[cut:], rejected[cut:]


def noisy_names(sample: Sample) -> tuple[str, ...]:
  """Names of the distorted pictures that a sample brings with it, or ().

  Raises:
    UserError: `image_noisy` names neither one, the first picture's twin, nor
      one for each picture.
  """
  named, count = sample.extra.get("image_noisy"), len(sample.images)
  if named is None:
    return ()
  names = named if isinstance(named, list) else [named]
  if not names or not all(n and isinstance(n, str) for n in names):
    raise UserError(f"image_noisy is {named!r:.40}; want a file name")
  if len(names) not in (1, count):
    raise UserError(
      f"{len(names)} names in image_noisy and {count} image(s); "
      "want one for the first picture, or one for each"
    )
  return tuple(names)


def resolve_image(image_dir: str | Path, name: str) -> Path:
  """The picture's path inside `image_dir`.

  Raises:
    UserError: an absolute name, one with "..", a link that leaves the folder,
      no such file.
  """
  label = repr(name[:200])
  parts = Path(name).parts
  if not parts or os.path.isabs(name) or ".." in parts or "\0" in name:
    raise UserError(f"image {label}: want a name inside {image_dir}")
  try:
    root = os.path.realpath(image_dir)
    path = os.path.realpath(os.path.join(root, name))
    if not path.startswith(os.path.join(root, "")):
      raise UserError(f"image {label}: a link that leaves {image_dir}")
    if not os.path.isfile(path):
      raise UserError(f"image {label}: no such file in {image_dir}")
  except (OSError, ValueError) as error:
    raise UserError(f"image {label}: {error}") from error
  return Path(image_dir) / name
