"""Rotary positions in a config.json, in the fields of old and new."""

from pathlib import Path

from povid_jax.errors import UserError
from povid_jax.weights.fields import Fields, number, section, want

# Every field of a rope section that is read or that must have its usual value
_FIELDS = {
  "rope_theta",
  "rope_type",
  "type",
  "factor",
  "low_freq_factor",
  "high_freq_factor",
  "original_max_position_embeddings",
  "partial_rotary_factor",
}


def _section(values: Fields, where: Path) -> Fields:
  """The fields of rope_parameters (transformers 5) and rope_scaling (before).

  Raises:
    UserError: the two contradict each other, or a field is not implemented,
      such as the lists of longrope, or sections by the type of a layer.
  """
  older, newer = (
    section(values, name, where) for name in ("rope_scaling", "rope_parameters")
  )
  rope = older | newer
  kinds = [
    part[name]
    for part in (older, newer)
    for name in ("type", "rope_type")
    if part.get(name) is not None
  ]
  differ = [name for name in older if rope[name] != older[name]]
  if differ or any(kind != kinds[0] for kind in kinds):
    raise UserError(
      f"{where}: rope_scaling and rope_parameters, or the fields type and "
      f"rope_type in them, have different values "
      f"({', '.join(differ) or ', '.join(map(repr, kinds)):.80}); want equal "
      "ones"
    )
  kind = kinds[0] if kinds else "default"
  want(kind, ("default", "linear", "llama3"), "the rope type", where)
  for name, value in rope.items():
    if name not in _FIELDS and value is not None:
      raise UserError(
        f"{where}: the rope field {name} is {value!r:.80}, which povid_jax "
        f"does not implement; want only {', '.join(sorted(_FIELDS))}"
      )
  return rope | {"rope_type": kind}


def read(values: Fields, where: Path) -> tuple[float, dict | None]:
  """Theta, and the scaling or None.

  Raises:
    UserError: the positions are of a kind that is not implemented.
  """
  rope = _section(values, where)
  given = {"rope_theta": values.get("rope_theta")} | rope
  if given["rope_theta"] is None:
    given["rope_theta"] = 10000.0
  theta = number(given, "rope_theta", where)
  want(
    rope.get("partial_rotary_factor", 1), (1,), "partial_rotary_factor", where
  )
  kind = rope["rope_type"]
  if kind == "default":
    return theta, None
  names = ["factor"]
  if kind == "llama3":
    names += ["low_freq_factor", "high_freq_factor"]
    names += ["original_max_position_embeddings"]
  lost = [name for name in names if name not in rope]
  if lost:
    raise UserError(f"{where}: rope scaling {kind!r} without {lost[0]}")
  for name in names:
    number(rope, name, where)
  if kind == "llama3" and rope[names[1]] >= rope[names[2]]:
    raise UserError(
      f"{where}: low_freq_factor is {rope[names[1]]} and high_freq_factor "
      f"{rope[names[2]]}; want a high_freq_factor above the low_freq_factor"
    )
  return theta, {"type": kind} | {name: rope[name] for name in names}
