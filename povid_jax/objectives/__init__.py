"""Preference objectives by name; see `core` for how a step adds them up."""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from povid_jax.errors import UserError
from povid_jax.objectives import losses
from povid_jax.objectives.core import (
  Counts,
  Logps,
  Needs,
  Objective,
  weighted_mean,
)

__all__ = [
  "OBJECTIVES",
  "Counts",
  "Logps",
  "Needs",
  "Objective",
  "get",
  "weighted_mean",
]

LOSS_TYPES = ("sigmoid", "hinge", "ipo")
SMOOTHING_VARIANTS = ("cdpo", "robust")


def _check_dpo(hyper: Mapping[str, Any]) -> None:
  _positive(hyper, "beta")
  _not_negative(hyper, "sft_weight")
  _not_negative(hyper, "anchor_weight")
  _one_of(hyper, "loss_type", LOSS_TYPES)
  _one_of(hyper, "smoothing_variant", SMOOTHING_VARIANTS)
  smoothing = hyper["label_smoothing"]
  if not 0 <= smoothing < 0.5:
    raise UserError(f"label_smoothing: want [0, 0.5), got {smoothing}")
  if smoothing and hyper["loss_type"] != "sigmoid":
    raise UserError(
      "label_smoothing needs loss_type=sigmoid, got "
      f"loss_type={hyper['loss_type']}"
    )


def _check_weights(*names: str) -> Callable[[Mapping[str, Any]], None]:
  def check(hyper: Mapping[str, Any]) -> None:
    for name in names:
      _not_negative(hyper, name)
    if not any(hyper[name] for name in names):
      raise UserError(
        f"{' and '.join(names)} are all 0, so nothing would be learned; set "
        "at least one of them above 0"
      )
    for name in ("beta", "alpha"):
      if name in hyper:
        _positive(hyper, name)
    if "anchor_weight" in hyper:
      _not_negative(hyper, "anchor_weight")

  return check


def _check_mdpo(hyper: Mapping[str, Any]) -> None:
  _positive(hyper, "beta")
  _not_negative(hyper, "conditional_weight")
  _not_negative(hyper, "anchor_weight")


def _check_mpo(hyper: Mapping[str, Any]) -> None:
  _positive(hyper, "beta")
  names = ("preference_weight", "quality_weight", "sft_weight")
  for name in names:
    _not_negative(hyper, name)
  if not any(hyper[name] for name in names[:2]):
    raise UserError(
      "preference_weight and quality_weight are both 0; use the objective "
      "sft instead"
    )


def _positive(hyper: Mapping[str, Any], name: str) -> None:
  if not hyper[name] > 0:
    raise UserError(f"{name}: want a number above 0, got {hyper[name]}")


def _not_negative(hyper: Mapping[str, Any], name: str) -> None:
  if not hyper[name] >= 0:
    raise UserError(f"{name}: want a number >= 0, got {hyper[name]}")


def _one_of(hyper: Mapping[str, Any], name: str, valid: tuple) -> None:
  if hyper[name] not in valid:
    raise UserError(
      f"{name}: want one of {', '.join(valid)}, got {hyper[name]!r}"
    )


_PAIR = Needs(rejected=True, reference=True)
_POVID = Objective(
  name="povid",
  fn=losses.povid,
  needs=dataclasses.replace(_PAIR, noise="own"),
  defaults=dict(
    beta=0.1,
    text_weight=0.5,
    noise_weight=0.5,
    anchor_weight=0.0,
    anchor=0.0,
  ),
  term_weights=dict(rejected="text_weight", noise="noise_weight"),
  check=_check_weights("text_weight", "noise_weight"),
)

OBJECTIVES: dict[str, Objective] = {
  "sft": Objective(
    name="sft",
    fn=losses.sft,
    needs=Needs(),
    defaults={},
    weight_by="token",
  ),
  "dpo": Objective(
    name="dpo",
    fn=losses.dpo,
    needs=_PAIR,
    defaults=dict(
      beta=0.1,
      loss_type="sigmoid",
      label_smoothing=0.0,
      smoothing_variant="cdpo",
      sft_weight=0.0,
      anchor_weight=0.0,
      anchor=0.0,
      length_normalised=False,
    ),
    check=_check_dpo,
  ),
  "povid": _POVID,
  "povid_shared": dataclasses.replace(
    _POVID,
    name="povid_shared",
    needs=dataclasses.replace(_PAIR, noise="policy"),
  ),
  "povid_paper": Objective(
    name="povid_paper",
    fn=losses.povid_paper,
    needs=dataclasses.replace(_PAIR, noise="policy"),
    defaults=dict(alpha=0.1, beta1=0.05, beta2=0.05),
    term_weights=dict(rejected="beta1", noise="beta2"),
    check=_check_weights("beta1", "beta2"),
  ),
  "mpo": Objective(
    name="mpo",
    fn=losses.mpo,
    needs=_PAIR,
    defaults=dict(
      beta=0.1,
      preference_weight=0.8,
      quality_weight=0.2,
      sft_weight=1.0,
    ),
    carries=dict(shift=0.0, updates=0.0),
    carry=losses.mpo_carry,
    check=_check_mpo,
  ),
  "mdpo": Objective(
    name="mdpo",
    fn=losses.mdpo,
    needs=dataclasses.replace(_PAIR, corrupted=True),
    defaults=dict(
      beta=0.1, anchor=0.0, conditional_weight=1.0, anchor_weight=1.0
    ),
    term_weights=dict(corrupted="conditional_weight"),
    check=_check_mdpo,
  ),
}


def get(name: str, **hyper: Any) -> Objective:
  """The named objective with its hyper-parameters bound.

  `needs` of the result leaves out what the given weights switch off:
  `get("povid", noise_weight=0)` needs no noise. `defaults` of the result holds
  the values in force; `fn` takes only (policy, reference, counts).

  Raises:
    UserError: unknown name or hyper-parameter (the message suggests the nearest
      valid one), or a value of the wrong type or out of range.
  """
  objective = OBJECTIVES.get(name)
  if objective is None:
    raise UserError(_unknown("objective", name, OBJECTIVES))
  values = dict(objective.defaults)
  for key, value in hyper.items():
    if key not in values:
      raise UserError(_unknown(f"{name} hyper-parameter", key, values))
    values[key] = _typed(f"{name}.{key}", value, values[key])
  objective.check(values)
  off = {
    need for need, key in objective.term_weights.items() if not values[key]
  }
  return dataclasses.replace(
    objective,
    # before the first step; a step passes what it carries
    fn=functools.partial(objective.fn, **values, **objective.carries),
    needs=objective.needs.without(*off),
    defaults=values,
  )


def _unknown(what: str, name: str, valid: Iterable[str]) -> str:
  valid = sorted(valid)
  near = difflib.get_close_matches(name, valid, 1, 0.4)
  hint = f"did you mean {near[0]!r}? " if near else ""
  return f"unknown {what} {name!r}; {hint}valid: {', '.join(valid) or 'none'}"


def _typed(where: str, value: Any, default: Any) -> Any:
  """`value` in the type of `default`; ints pass for floats, nothing else."""
  wanted = type(default)
  is_bool = isinstance(value, bool)
  if wanted is float and isinstance(value, int | float) and not is_bool:
    return float(value)
  if isinstance(value, wanted) and is_bool == (wanted is bool):
    return value
  raise UserError(f"{where}: want {wanted.__name__}, got {value!r}")
