"""Fields of a config.json, each checked where it is taken out."""

import re
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError

Fields = dict[str, Any]


def want(value: Any, wanted: tuple, field: str, where: Path) -> None:
  """Raises UserError unless the value is one of those."""
  if value not in wanted:
    choice = " or ".join(repr(w) for w in wanted)
    raise UserError(f"{where}: {field} is {value!r:.80}, want {choice}")


def integer(values: Fields, field: str, where: Path, most: int = 10**9) -> int:
  """A whole number from 1 to `most`; UserError names the field."""
  value: Any = values.get(field)
  if type(value) is not int or not 1 <= value <= most:
    raise UserError(
      f"{where}: {field} is {value!r:.80}, want a whole number from 1 to {most}"
    )
  return value


def number(values: Fields, field: str, where: Path) -> float:
  """A number above zero; UserError names the field."""
  value: Any = values.get(field)
  if type(value) not in (int, float) or not 0 < value < float("inf"):
    raise UserError(f"{where}: {field} is {value!r:.80}, want a number above 0")
  return float(value)


# Fields by which relatives of Llama scale what a layer, the embedding or the
# logits give, or do something else in place of a layer of Llama's.
_CHANGES = re.compile(
  r"scal|multiplier|soft_?cap|qk_?(layer_?)?norm|clip_qkv|alibi|expert"
  r"|parallel_(residual|attn)|dim_model_base|no_rope"
)
_NEUTRAL = (None, False, 0, 1, "", [], {})


def refuse_changes(values: Fields, where: Path) -> None:
  """Refuses fields that change a decoder in a way that is not implemented.

  They are told by their names, as new relatives bring new ones; `rope_*` is
  looked at where positions are.

  Raises:
    UserError: names the field.
  """
  for field, value in values.items():
    # 1 as a factor changes nothing, true as a switch does, and Python holds
    # them for equal
    if field.startswith(("rope_", "mm_")) or (
      value in _NEUTRAL and value is not True
    ):
      continue
    if _CHANGES.search(field):
      raise UserError(
        f"{where}: {field} is {value!r:.80}, which changes the results in a "
        "way that povid_jax does not implement; want a Llama, Mistral or "
        "Qwen2 decoder without it"
      )
  kinds = values.get("layer_types")
  if isinstance(kinds, list) and len(set(map(str, kinds))) > 1:
    raise UserError(
      f"{where}: layer_types has several types "
      f"({', '.join(sorted(set(map(str, kinds))))}); want one for all layers"
    )


def section(values: Fields, field: str, where: Path) -> Fields:
  """An object inside the config, {} where it is absent or null."""
  value = values.get(field)
  if value is not None and not isinstance(value, dict):
    raise UserError(f"{where}: {field} is {value!r:.80}, want an object")
  return value or {}
