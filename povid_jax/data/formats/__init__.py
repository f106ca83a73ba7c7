"""Preference data in the formats of other projects, one file per format; see
base.Format.
"""

import re
from collections.abc import Sequence

from povid_jax.data.formats import (
  columns,
  ha_dpo,
  llama_factory,
  llava,
  mmpr,
  ms_swift,
  povid,
  rlaif_v,
  rlhf_v,
  sentinel,
  spa_vl,
  trl,
  vlfeedback,
)
from povid_jax.data.formats.base import Format, Malformed, Row
from povid_jax.errors import UserError

__all__ = ["FORMATS", "Format", "Malformed", "find", "recognise", "refusal"]

# The order in which a row is tried: the stricter one first.
FORMATS: dict[str, Format] = {
  module.FORMAT.name: module.FORMAT
  for module in (
    povid,
    llama_factory,
    vlfeedback,
    sentinel,
    ha_dpo,
    rlhf_v,
    rlaif_v,
    mmpr,
    spa_vl,
    trl,
    ms_swift,
    llava,
  )
}

_WORSE = (
  r"(reject(ed|s)?|(dis|un|non_?)preferred|los(er|ing|e)|worse|worst|negative"
  r"|hallucinated|bad|wrong|y_?l(ose)?)"
)
_SAID = r"(answers?|responses?|conversations?|messages?|texts?|outputs?|turns?)"
_REJECTED = re.compile(
  rf"(all_?|more_?)?({_WORSE}(_?{_SAID})?|{_SAID}_?{_WORSE}"
  rf"|chosen(_?{_SAID})?)(_?\d+)?",
  re.I,
)


ANSWER = "a chosen or rejected answer"
_KTO = ("label", "kto_tag", "kto_label")
MEANING = {  # of keys that do not hold an ANSWER
  "context": "the answer so far",
  **dict.fromkeys(_KTO, "whether the answer is good (KTO data, no pairs)"),
}


def find(name: str, flag_columns: str | None = None) -> Format:
  """The format of `--format` or `--columns`; UserError lists the names."""
  if flag_columns is not None:
    return columns.make(columns.parse(flag_columns))
  if name not in FORMATS:
    raise UserError(f"--format={name}: want one of {', '.join(FORMATS)}")
  return FORMATS[name]


def recognise(row: Row) -> Format | None:
  """The first format whose keys a row has, None where no format fits."""
  return next((f for f in FORMATS.values() if f.matches(row)), None)


def unread(row: Row, form: Format) -> str | None:
  """A key that seems to hold an answer, a context or a label and that the
  format does not read; None if there is none.
  """
  for key in sorted(row.keys() - form.reads):
    said = row[key]
    if key == "context" and isinstance(said, str) and said.strip():
      return key
    if key in _KTO and isinstance(said, bool):
      return key
    if (
      _REJECTED.fullmatch(key) and isinstance(said, str | list | dict) and said
    ):
      return key
  return None


_OTHERS: Sequence[tuple[set[str], str]] = (
  ({"images", "annotations"}, "COCO's annotations"),
  ({"question_id", "text"}, "answers or questions of an evaluation"),
  (
    {"root", "annotation"},
    "MMPR's meta.json; give one of the .jsonl files that it lists",
  ),
  ({"question", "answer"}, "questions with one answer each"),
  ({"prompt", "completion"}, "TRL's prompt-completion data"),
  ({"prompt", "label"}, "KTO data, single answers with a label"),
)


def refusal(row: Row) -> str:
  """Why a row is not a sample: what it looks like, and which keys it needs."""
  keys = ", ".join(map(str, row)) or "none"
  ways = (
    "--format=NAME or --columns=question=...,chosen=... tells the command "
    "how to read the file"
  )
  for marks, title in _OTHERS:
    if marks <= row.keys():
      return (
        f"keys {keys[:200]}: this looks like {title}, not like preference "
        f"data; {ways}"
      )
  score = lambda f: len(row.keys() & set(f.keys)) / len(f.keys)
  near = max(reversed(FORMATS.values()), key=score)
  if score(near) == 0:
    return (
      f"keys {keys[:200]}: no known preference format has these keys; {ways}"
    )
  missing = " and ".join(key for key in near.keys if key not in row)
  null = " and ".join(key for key in near.keys if row.get(key, 0) is None)
  return (
    f"keys {keys[:200]}: closest to {near.title}, where "
    + (
      f"{missing} is missing"
      if missing
      else f"{null} is null"
      if null
      else "the values have other types"
    )
    + f"; {ways}"
  )
