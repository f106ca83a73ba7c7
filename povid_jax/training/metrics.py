"""Writes the metrics of a run to JSONL, TensorBoard, W&B and the terminal."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from povid_jax import files, progress
from povid_jax.errors import UserError

# What the line on standard output shows, if the step reports it.
_SHOWN = (
  ("loss", "loss {:#.4g}"),
  ("margin/rejected", "margin rejected {:+#.3g}"),
  ("margin/noise", "noise {:+#.3g}"),
  ("drift/chosen", "drift {:+#.3g}"),
  ("grad_norm", "grad {:.3g}"),
  ("lr", "lr {:.3g}"),
  ("skipped", "skipped {:.0f}"),
  ("input_wait_share", "input wait {:.0%}"),
)


class Rates:
  """Pairs/s, tokens/s and MFU between calls.

  Args:
    peak: FLOP/s of all devices together, or None when not known.
    clock: returns seconds; tests pass their own.
  """

  def __init__(
    self, peak: float | None = None, clock: Callable[[], float] = time.monotonic
  ):
    self._peak = peak
    self._clock = clock
    self._last: float | None = None
    self._span = np.zeros(4)

  def tick(
    self, pairs: float = 0, tokens: float = 0, flops: float = 0
  ) -> dict[str, float]:
    """Rates of the work done since the last tick.

    The first tick only starts the clock: the time before it was compilation.
    """
    now, last = self._clock(), self._last
    self._last = now
    if last is None or now <= last:
      return {}
    done = np.array([now - last, pairs, tokens, flops])
    self._span += done
    return self._rates(*done.tolist())

  def span(self) -> dict[str, float]:
    """Rates of all ticks since the last call of `span`."""
    done, self._span = self._span, np.zeros(4)
    return self._rates(*done.tolist()) if done[0] else {}

  def _rates(
    self, seconds: float, pairs: float, tokens: float, flops: float
  ) -> dict[str, float]:
    rates = {
      "seconds": seconds,
      "pairs_per_s": pairs / seconds,
      "tokens_per_s": tokens / seconds,
    }
    if flops and self._peak:
      rates["mfu"] = flops / seconds / self._peak
    return rates


class Writer:
  """Writes one row per step to WORKDIR/metrics, and a line now and then.

  train.jsonl holds one JSON object per step ({"step", "loss", ...}; a number
  that is not finite is null) and is flushed at every row: a killed process
  loses nothing, and half a line is dropped at the next start.

  A line shows the rates since the line before it. A row has the rates of its
  own step; these can be wrong near a save, where the host waits for the device
  after it has run ahead.

  Args:
    workdir: run directory.
    start_step: first step of this process. Rows of that step and later, left
      by a process that died after its last checkpoint, are removed, so that
      the sequence has neither gaps nor duplicates.
    every: steps between lines on standard output; 0 prints none.
    total_steps: for the line; None when not known.
    peak: FLOP/s of all devices, for MFU (see models.chips).
    tensorboard: also write TensorBoard events to the same folder.
    wandb: keyword arguments of `wandb.init` ({"project": ...}), or None.
    enabled: False on all hosts but the first; then nothing is written.

  Raises:
    UserError: the folder cannot be written, or W&B is configured and not
      installed.
  """

  def __init__(
    self,
    workdir: str | Path,
    *,
    start_step: int = 0,
    every: int = 10,
    total_steps: int | None = None,
    peak: float | None = None,
    tensorboard: bool = True,
    wandb: Mapping[str, Any] | None = None,
    enabled: bool = True,
  ):
    self._every, self._total = every, total_steps
    self._began: tuple[float, int] | None = None  # after the first step
    self._rates = Rates(peak)
    self._file: IO[str] | None = None
    self._board: Any = None
    self._wandb: Any = None
    self._bar: Any = None
    if not enabled:
      return
    self._path = path = path_in(workdir)
    folder = path.parent
    files.ensure_parent(path)
    if wandb is not None:
      self._wandb = _start_wandb(Path(workdir), wandb)
    truncate(path, start_step)
    self._file = open(path, "a", encoding="utf-8")
    if tensorboard:
      from tensorboardX import SummaryWriter

      self._board = SummaryWriter(str(folder), purge_step=start_step)
    self._bar = progress.bar(  # in a log file the lines are enough
      total=total_steps,
      initial=start_step,
      desc="training",
      unit="step",
      lines=False,
    )

  def write(
    self,
    step: int,
    values: Mapping[str, Any],
    *,
    pairs: float = 0,
    tokens: float = 0,
    flops: float = 0,
  ) -> dict[str, float]:
    """Writes a step; returns the row, with the rates since the last call.

    Args:
      step: optimizer step, rising.
      values: name -> number (anything that float() takes).
      pairs, tokens, flops: work done since the last call, all devices.

    Raises:
      UserError: the row cannot be written (the disk is full).
    """
    row = {name: float(value) for name, value in values.items()}
    row |= self._rates.tick(pairs, tokens, flops)
    if "input_wait_seconds" in row and "seconds" in row:
      share = row["input_wait_seconds"] / row["seconds"]
      row["input_wait_share"] = min(1.0, share)
    if self._file is None:
      return row
    clean = {k: v if math.isfinite(v) else None for k, v in row.items()}
    try:
      self._file.write(json.dumps({"step": int(step), **clean}) + "\n")
      self._file.flush()
    except OSError as error:  # a full disk, mostly
      raise UserError(
        f"step {step}: cannot write {self._path}: {error.strerror}; free some "
        "space and run the same command again; it continues from the last "
        "checkpoint"
      ) from error
    if self._board is not None:
      for name, value in clean.items():
        if value is not None:
          self._board.add_scalar(name, value, step)
    if self._wandb is not None:
      self._wandb.log(row, step=step)
    if self._every and step % self._every == 0:
      shown = {**row, **self._rates.span(), **self._time_left(step)}
      progress.say(line(step, shown, self._total))
    if self._began is None:
      self._began = (time.monotonic(), step)
    self._bar.set_postfix_str("  ".join(_speed(row)), refresh=False)
    self._bar.update()
    return row

  def _time_left(self, step: int) -> dict[str, float]:
    """Seconds to the end at the pace so far, saves and evaluations included."""
    if self._began is None or not self._total or step <= self._began[1]:
      return {}
    pace = (time.monotonic() - self._began[0]) / (step - self._began[1])
    return {"seconds_left": pace * (self._total - 1 - step)}

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
    if self._board is not None:
      self._board.close()
    if self._wandb is not None:
      self._wandb.finish()
    if self._bar is not None:
      self._bar.close()
    self._file = self._board = self._wandb = self._bar = None

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()


def line(step: int, row: Mapping[str, float], total: int | None = None) -> str:
  """One step for a reader: loss, margins, rates."""
  parts = [f"step {step}/{total}" if total else f"step {step}"]
  parts += [form.format(row[name]) for name, form in _SHOWN if name in row]
  parts += _speed(row)
  if "seconds_left" in row:
    parts.append(f"{_clock(row['seconds_left'])} left")
  return "  ".join(parts)


def _clock(seconds: float) -> str:
  """Hours, minutes and seconds: 1:02:03, or 2:03."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _speed(row: Mapping[str, float]) -> list[str]:
  """The rates of a row that has them."""
  parts = []
  if row.get("pairs_per_s"):
    parts.append(f"{row['pairs_per_s']:.3g} pairs/s")
  if row.get("tokens_per_s"):
    parts.append(f"{_short(row['tokens_per_s'])} tokens/s")
  if "mfu" in row:
    parts.append(f"MFU {row['mfu']:.1%}")
  return parts


def _short(number: float) -> str:
  for unit, scale in (("M", 1e6), ("k", 1e3)):
    if number >= scale:
      return f"{number / scale:.3g}{unit}"
  return f"{number:.3g}"


def path_in(workdir: str | Path) -> Path:
  """Where a run keeps the rows of its steps."""
  return Path(workdir) / "metrics" / "train.jsonl"


def read(path: str | Path) -> list[dict[str, Any]]:
  """Rows of a train.jsonl, in order; half a last line is left out.

  Raises:
    UserError: a line in the middle that is not a JSON object with a step.
  """
  rows = []
  for row in files.json_objects(path, torn=True):
    try:
      rows.append({**_renamed(row), "step": int(row["step"])})
    except (KeyError, ValueError, TypeError, OverflowError) as error:
      raise UserError(
        f"{path}: every row needs a step, a whole number; {row!r:.60} has none"
      ) from error
  return rows


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
  """Renames the metrics of older runs, which called the rejected answer
  "injected".
  """
  old, new = "/injected", "/rejected"
  return {
    name.removesuffix(old) + new if name.endswith(old) else name: value
    for name, value in row.items()
  }


def truncate(path: str | Path, start_step: int) -> None:
  """Removes the rows of `start_step` and later, and half a last line."""
  path = Path(path)
  if not path.exists():
    return
  kept = [row for row in read(path) if row["step"] < start_step]
  with files.atomic_write(path) as file:
    file.writelines(json.dumps(row) + "\n" for row in kept)


def _start_wandb(workdir: Path, options: Mapping[str, Any]) -> Any:
  try:
    import wandb  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise UserError(
      "config.log.wandb is set, but wandb is not installed: pip install "
      "'povid_jax[wandb]', or leave config.log.wandb empty"
    ) from error
  settings = {"name": workdir.name, "dir": str(workdir), "resume": "allow"}
  return wandb.init(**{**settings, **options})
