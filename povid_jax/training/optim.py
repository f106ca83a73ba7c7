"""AdamW with schedules, learning-rate groups and a guard against NaN.

Parameters are a pytree whose '/'-joined paths name them (a flat dict
{path: array} is the usual case). Groups, masks and tables go by those paths.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from povid_jax.errors import UserError
from povid_jax.training.trainable import (
  compile_regex,
  match_trainable,
  top_groups,
  trainable_table,
)

__all__ = [
  "NO_DECAY",
  "SCHEDULES",
  "GuardState",
  "NonFiniteError",
  "check_finite",
  "finite_guard",
  "guard_flags",
  "make",
  "match_trainable",
  "path_of",
  "schedule",
  "trainable_table",
]

Schedule = Callable[[Any], jax.Array]

SCHEDULES = ("cosine", "linear", "constant")
# Norm scales, biases and the two CLIP embeddings that are not matrices.
NO_DECAY = r"(^|/)(scale|bias|class_embedding|position_embedding)$"


def schedule(
  kind: str,
  peak: float,
  total_steps: int,
  *,
  warmup_ratio: float = 0.0,
  warmup_steps: int | None = None,
  end_factor: float = 0.0,
) -> Schedule:
  """Learning rate by step: linear warm-up from 0, then down to the end.

  As transformers' Trainer, which the released runs used: update number `s`
  (from 0) uses rate(s), so the very first update of a warm-up changes nothing;
  a ratio is rounded up to whole steps.

  Args:
    kind: cosine | linear | constant, the shape after the warm-up.
    peak: highest learning rate.
    total_steps: optimizer updates of the whole run, warm-up included.
    warmup_ratio: share of `total_steps`; not read when `warmup_steps` is given.
    warmup_steps: updates of warm-up.
    end_factor: the last rate over the peak (cosine, linear).

  Raises:
    UserError: unknown kind, negative rate, warm-up longer than the run.
  """
  if kind not in SCHEDULES:
    near = difflib.get_close_matches(str(kind), SCHEDULES, 1, 0.0)[0]
    raise UserError(
      f"unknown schedule {kind!r}; did you mean {near!r}? "
      f"valid: {', '.join(SCHEDULES)}"
    )
  if not peak >= 0 or total_steps < 1:
    raise UserError(
      f"schedule: want learning rate >= 0 and steps >= 1, "
      f"got {peak} and {total_steps}"
    )
  if warmup_steps is None:
    warmup_steps = math.ceil(total_steps * warmup_ratio)
  if not 0 <= warmup_steps <= total_steps:
    raise UserError(
      f"warm-up of {warmup_steps} steps does not fit a run of {total_steps}"
    )
  down_steps = max(1, total_steps - warmup_steps)

  def rate(step: Any) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    warm = step / max(1, warmup_steps)
    done = jnp.clip((step - warmup_steps) / down_steps, 0.0, 1.0)
    fall = {
      "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
      "linear": 1.0 - done,
      "constant": jnp.ones_like(done),
    }[kind]
    down = end_factor + (1.0 - end_factor) * fall
    return peak * jnp.where(step < warmup_steps, warm, down)

  return rate


def path_of(key_path: Sequence[Any]) -> str:
  """'/'-joined name of a leaf, from a jax key path of dicts or attributes."""
  names = []
  for key in key_path:
    name = getattr(key, "key", getattr(key, "name", getattr(key, "idx", None)))
    names.append(str(name))
  return "/".join(names)


def make(
  *,
  learning_rate: float,
  total_steps: int,
  paths: Iterable[str],
  schedule_kind: str = "cosine",
  warmup_ratio: float = 0.0,
  warmup_steps: int | None = None,
  end_factor: float = 0.0,
  group_rates: Mapping[str, float] | None = None,
  weight_decay: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  clip_norm: float = 0.0,
  no_decay: str = NO_DECAY,
) -> tuple[optax.GradientTransformation, dict[str, Schedule]]:
  """AdamW over the trainable parameters.

  Args:
    learning_rate: peak rate of every parameter that no group names.
    total_steps: optimizer updates (after gradient accumulation) of the run.
    paths: paths of the trainable parameters.
    schedule_kind, warmup_ratio, warmup_steps, end_factor: see `schedule`; the
      same shape for every group.
    group_rates: regex on a path (re.search) -> peak rate; first match wins.
    weight_decay: decoupled; multiplied by the rate, as in AdamW.
    clip_norm: global norm over all groups before Adam; 0 does not clip.
    no_decay: regex of the paths that do not decay.

  Returns:
    (transform, {group: rate by step}); the group of the rest is "default". The
    state holds two moments per parameter, shaped like the parameters, and
    scalars: it takes the parameters' sharding.

  Raises:
    UserError: a group regex that names no trainable parameter (as
      mm_projector_lr did in the released code, where the projector was frozen
      and its rate without effect), or a bad value.
  """
  group_of = _groups(tuple(paths), dict(group_rates or {}))
  peaks = {"default": learning_rate, **(group_rates or {})}
  rates = {
    group: schedule(
      schedule_kind,
      peak,
      total_steps,
      warmup_ratio=warmup_ratio,
      warmup_steps=warmup_steps,
      end_factor=end_factor,
    )
    for group, peak in peaks.items()
    if group == "default" or group in group_of.values()
  }
  decays = re.compile(no_decay)
  steps = [optax.scale_by_adam(b1=b1, b2=b2, eps=eps)]
  if clip_norm:
    steps.insert(0, optax.clip_by_global_norm(clip_norm))
  if weight_decay:
    mask = lambda tree: jax.tree_util.tree_map_with_path(
      lambda path, _: not decays.search(path_of(path)), tree
    )
    steps.append(optax.add_decayed_weights(weight_decay, mask))
  steps.append(_scale_by_group(rates, group_of))
  return optax.chain(*steps), rates


def _groups(
  paths: tuple[str, ...], group_rates: Mapping[str, float]
) -> dict[str, str]:
  """Path -> the first regex that names it, or "default"."""
  regexes = {regex: compile_regex(regex) for regex in group_rates}
  group_of = {
    path: next((r for r, c in regexes.items() if c.search(path)), "default")
    for path in paths
  }
  for regex in regexes:
    if regex not in group_of.values():
      raise UserError(
        f"learning-rate group {regex!r} matches no trainable parameter; make "
        "the parameter trainable or remove the rate (trainable: "
        f"{top_groups(paths)})"
      )
  return group_of


def _scale_by_group(
  rates: Mapping[str, Schedule], group_of: Mapping[str, str]
) -> optax.GradientTransformation:
  """Multiplies each update by minus the rate of its group.

  One count for all groups, rather than optax.multi_transform, so that the
  state of Adam stays one tree in the shape of the parameters.
  """

  def init(params: Any) -> optax.ScaleByScheduleState:
    del params
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    now = {group: rate(state.count) for group, rate in rates.items()}

    def scale(path: Any, update: jax.Array) -> jax.Array:
      rate = now[group_of.get(path_of(path), "default")]
      return (-rate * update).astype(update.dtype)

    updates = jax.tree_util.tree_map_with_path(scale, updates)
    count = optax.safe_increment(state.count)
    return updates, optax.ScaleByScheduleState(count=count)

  return optax.GradientTransformation(init, update)


class GuardState(NamedTuple):
  """State of `finite_guard`: scalars, and the guarded transform's own."""

  inner: Any
  finite: jax.Array  # bool: the last update was applied
  skipped: jax.Array  # int32: updates withheld so far
  in_a_row: jax.Array  # int32: updates withheld since the last good one


class NonFiniteError(UserError, FloatingPointError):
  """The loss or a gradient is NaN or infinite."""


def finite_guard(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Withholds an update, and leaves all state as it was, if it is not finite.

  Under both policies no NaN ever reaches the parameters; the step reports the
  flags of `guard_flags` and the loop calls `check_finite`. Pass the loss as
  `update(grads, state, params, loss=loss)` to guard it as well.
  """
  inner = optax.with_extra_args_support(inner)

  def init(params: Any) -> GuardState:
    zero = jnp.zeros([], jnp.int32)
    return GuardState(inner.init(params), jnp.array(True), zero, zero)

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    loss: jax.Array | None = None,
    **extra: Any,
  ) -> tuple[Any, GuardState]:
    checked = [*jax.tree.leaves(updates), *([] if loss is None else [loss])]
    finite = jnp.array(True)
    for leaf in checked:
      finite &= jnp.all(jnp.isfinite(leaf))
    new_updates, new_inner = inner.update(updates, state.inner, params, **extra)
    pick = lambda new, old: jax.tree.map(
      lambda a, b: jnp.where(finite, a, b), new, old
    )
    bad = jnp.where(finite, 0, 1).astype(jnp.int32)
    return pick(new_updates, jax.tree.map(jnp.zeros_like, new_updates)), (
      GuardState(
        inner=pick(new_inner, state.inner),
        finite=finite,
        skipped=state.skipped + bad,
        in_a_row=(state.in_a_row + bad) * bad,
      )
    )

  return optax.GradientTransformationExtraArgs(init, update)


def guard_flags(state: GuardState) -> dict[str, jax.Array]:
  """Metrics of a guard: float32 scalars finite, skipped, skipped_in_a_row."""
  return {
    "finite": state.finite.astype(jnp.float32),
    "skipped": state.skipped.astype(jnp.float32),
    "skipped_in_a_row": state.in_a_row.astype(jnp.float32),
  }


def check_finite(
  policy: str, step: int, flags: Mapping[str, float], max_in_a_row: int = 20
) -> None:
  """Host side of the guard.

  Args:
    policy: raise | skip.
    step: the step that the flags belong to.
    flags: `guard_flags`, fetched.
    max_in_a_row: under skip, this many bad steps in a row end the run.

  Raises:
    NonFiniteError: a bad step under raise, or too many in a row under skip.
    UserError: unknown policy.
  """
  if policy not in ("raise", "skip"):
    raise UserError(f"non-finite policy: want raise or skip, got {policy!r}")
  if flags["finite"]:
    return
  where = f"step {step}: the loss or a gradient is NaN or infinite"
  if policy == "raise" and step == 0:
    raise NonFiniteError(
      f"{where} before the first update, so the learning rate is not the "
      "cause: the weights of config.init are damaged, or its numbers are too "
      "large for config.dtype. `python -m povid_jax.score` prints the "
      "numbers of each pair"
    )
  if policy == "raise":
    raise NonFiniteError(
      f"{where}; the update was not applied. Lower config.lr, check the "
      "samples of this step, or set --config.on_nonfinite=skip to skip such "
      "steps"
    )
  in_a_row = int(flags["skipped_in_a_row"])
  if in_a_row >= max_in_a_row:
    raise NonFiniteError(
      f"{where}, {in_a_row} times in a row, so the run stops. Lower config.lr "
      "or check the data"
    )
