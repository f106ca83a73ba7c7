"""A run directory: which run it belongs to, and whether that run has ended."""

import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from povid_jax import config as config_lib
from povid_jax import files
from povid_jax.checkpoints import restore
from povid_jax.errors import UserError
from povid_jax.training import outline

# fields that may differ when a run continues: they do not change its numbers
_FREE = (
  "checkpoint.",
  "log.",
  "eval.",
  "data.workers",
  "data.on_bad_sample",
  "on_nonfinite",
  "mesh.",
  "attention",
  "remat",
  "head_chunk",
  "reference_cache",
)
_LENGTH = ("steps", "epochs")
_ENDED = "done.json"


def describe(config: ConfigDict) -> dict[str, Any]:
  """What config.json holds."""
  lora = outline.lora_of(config)
  return {
    **config.to_dict(),
    "lora": lora.to_dict() if lora is not None else None,
  }


def check(config: ConfigDict, workdir: Path) -> None:
  """Refuses a directory that holds checkpoints of another run.

  A run may be made longer if that does not change the steps already done.

  Raises:
    UserError: a field differs; the message names it.
  """
  if not restore.steps_of(workdir):
    return
  old = config_lib.flat(restore.read_run(workdir))
  # a field that did not exist when the run started counts as its default
  old = config_lib.flat(config_lib.default().to_dict()) | old
  new = config_lib.flat(describe(config))
  # a field that is no longer set has its default again: that is another run
  gone = {n for n in old if n.startswith("objective.hyper.")} - set(new)
  for name, value in {**new, **dict.fromkeys(gone)}.items():
    if name.startswith(_FREE) or old.get(name) == files.as_read(value):
      continue
    if name in _LENGTH:
      _check_length(config, workdir, name, old[name])
      continue
    raise UserError(
      f"{workdir} holds a run with config.{name}={old.get(name)!r}, this one "
      f"has {value!r}; use another --workdir"
    )


def _check_length(
  config: ConfigDict, workdir: Path, name: str, before: float
) -> None:
  """Whether the length of the run changes the learning rates of the steps
  done.
  """
  warm = config.warmup_steps < 0 and config.warmup_ratio > 0
  if config.schedule == "constant" and not warm:
    return
  why = f"the {config.schedule} schedule"
  if config.schedule == "constant":
    why = "warmup_ratio, a share of the steps,"
  raise UserError(
    f"{workdir} holds a run with config.{name}={before!r}, this one has "
    f"{config[name]!r}: {why} depends on the length of the run, and the steps "
    "already done would have used other learning rates. Start a new run from "
    f"it: --config.init={workdir} and another --workdir"
  )


def keep(config: ConfigDict, workdir: Path, total: int) -> None:
  """Writes config.json, once everything about the config has been checked.

  Args:
    total: steps of the whole run.
  """
  if jax.process_index() == 0:
    (workdir / _ENDED).unlink(missing_ok=True)
    with files.atomic_write(workdir / "config.json") as file:
      json.dump({**describe(config), "total_steps": total}, file, indent=2)


def note_end(workdir: Path, step: int, total: int) -> None:
  """Notes that the run has ended, by its length or by patience."""
  if jax.process_index() == 0:
    with files.atomic_write(workdir / _ENDED) as file:
      json.dump({"step": step, "total_steps": total}, file)


def check_ended(init: str) -> None:
  """Refuses to start from a run that has not ended, unless its step is named.

  Args:
    init: as the user gave it: a model folder, RUN or RUN@STEP.

  Raises:
    UserError: the run has not ended; the message says how far it is.
  """
  run = Path(init)
  steps = restore.steps_of(run)
  if not steps or (run / "model.json").is_file() or (run / _ENDED).is_file():
    return
  held = restore.read_run(run)
  # runs before done.json: where patience may have ended it, nobody knows
  total = held.get("total_steps") or held.get("steps") or 0
  patience = "total_steps" not in held and held.get("eval", {}).get("patience")
  if steps[-1] < total and not patience:
    raise UserError(
      f"config.init={init} is a run that has not ended (step {steps[-1]} of "
      f"{total}): let it end, or give the step to start from, "
      f"--config.init={init}@{steps[-1]}"
    )
