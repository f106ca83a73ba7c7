"""The valid values of each config field, and its names in other trainers.

A field's type is that of its default in `config.default`. Numbers that are NaN
or infinite are refused for every field (see `config.set_field`).
"""

import argparse
import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from povid_jax.errors import UserError
from povid_jax.folders import is_remote

_MUCH = 10**9


@dataclasses.dataclass(frozen=True)
class Bound:
  """The values of one field.

  Attributes:
    least, most: of a number, both included.
    above, below: of a number: it must be larger or smaller than this.
    choices: the only values there are.
    also: a number that is valid outside the range.
    regex: a text that must compile as a regular expression.
    path: a text that names a file or folder of this machine.
    required: a text that must not be empty.
    note: the reason for the bound, or what a special value means.
  """

  least: float | None = None
  most: float | None = None
  above: float | None = None
  below: float | None = None
  choices: tuple[str, ...] = ()
  also: float | None = None
  regex: bool = False
  path: bool = False
  required: bool = False
  note: str = ""

  def wanted(self) -> str:
    """The valid values in words."""
    if self.choices:
      return "one of " + ", ".join(self.choices)
    if self.regex:
      return "a regular expression"
    if self.path or self.required:
      return "the name of a folder of this machine"
    parts = []
    if self.above is not None:
      parts.append(f"a number above {_plain(self.above)}")
    if self.least is not None:
      parts.append(f"a number of at least {_plain(self.least)}")
    if self.most is not None:
      parts.append(f"at most {_plain(self.most)}")
    if self.below is not None:
      parts.append(f"below {_plain(self.below)}")
    if self.also is not None:
      parts.append(f"or {_plain(self.also)}")
    return ", ".join(parts) + (f" ({self.note})" if self.note else "")

  def holds(self, value: Any) -> bool:
    """Whether a value of the right type is valid."""
    if self.choices:
      return value in self.choices
    if isinstance(value, bool):
      return True
    if isinstance(value, str):
      return self._holds_text(value)
    if self.also is not None and value == self.also:
      return True
    if self.above is not None and not value > self.above:
      return False
    if self.below is not None and not value < self.below:
      return False
    if self.least is not None and not value >= self.least:
      return False
    return self.most is None or value <= self.most

  def _holds_text(self, value: str) -> bool:
    if self.regex:
      try:
        re.compile(value)
      except (re.error, RecursionError, OverflowError):
        return False
    if self.path and is_remote(value):
      return False
    return not (self.required and not value) and "\x00" not in value


def _plain(number: float) -> str:
  return str(int(number)) if number == int(number) else f"{number:g}"


def _count(most: float = _MUCH, least: float = 0, **more: Any) -> Bound:
  return Bound(least=least, most=most, **more)


class Flag(NamedTuple):
  """The type of a flag that is a number, for argparse."""

  kind: type
  bound: Bound

  def __call__(self, text: str) -> float:
    try:
      value = self.kind(text)
    except ValueError:  # too many digits, too
      value = math.nan
    if value != value or not self.bound.holds(value):
      wanted = self.bound.wanted()
      if self.kind is int:
        wanted = wanted.replace("a number", "a whole number")
      raise argparse.ArgumentTypeError(f"{text[:40]!r}: want {wanted}")
    return value


def whole(least: int = 0, most: int = _MUCH) -> Flag:
  """Type of a flag that is a whole number in these bounds, both included."""
  return Flag(int, Bound(least, most))


def number(
  least: float = 0,
  most: float | None = 1e12,
  above: float | None = None,
  below: float | None = None,
) -> Flag:
  """Type of a flag that is a finite number in these bounds."""
  most = most if below is None else None
  at_least = least if above is None else None
  return Flag(float, Bound(at_least, most, above, below=below))


# Types of flags that several commands have.
_MOST_SEED = 2**32 - 1
SEED = whole(most=_MOST_SEED)
TOKENS = whole(1, 2**20)
ROWS = whole(1, 2**16)  # worked on at a time
TEMPERATURE = number(most=100)
TOP_P = number(above=0, most=1)
TOP_K = whole()
SHARE = number(most=1)
NOISE_STEP = whole(most=999)
PIXELS = whole(1, 10**5)
WORKERS = whole(1, 1024)
RESAMPLES = whole(1, 10**6)
CONCURRENCY = whole(1, 10**4)
TIMEOUT = number(above=0)
RETRIES = whole(most=1000)
PAUSE = number(most=86400)  # seconds


_FREE = Bound()
_FOLDER = Bound(path=True)
_INPUT = Bound(path=True, required=True)
_REGEX = Bound(regex=True, required=True)
_AXIS = _count(2**20, 1, also=-1, note="-1 takes the devices that are left")

BOUNDS: dict[str, Bound] = {
  "init": _INPUT,
  "seed": _count(_MOST_SEED),
  "data.train": _INPUT,
  "data.split": Bound(required=True),
  "data.max_prefix": _count(2**20, note="0: that of the data"),
  "data.max_branch": _count(2**20, note="0: that of the data"),
  "data.buckets": _count(64, 1),
  "data.bucket_multiple": _count(4096, 1),
  "data.on_too_long": Bound(choices=("refuse", "drop")),
  "data.on_bad_sample": Bound(choices=("raise", "skip")),
  "data.changed_weight": Bound(least=0.0, most=1e6),
  "data.workers": _count(256),
  "data.limit": _count(note="0: all records"),
  "objective.name": Bound(required=True),
  "noise.step": _count(999),
  "noise.tokens": Bound(choices=("argmax", "argmax_exclude_gold")),
  "noise.overflow": Bound(choices=("wrap", "clip")),
  "noise.site": Bound(choices=("image", "pixels")),
  "noise.per_epoch": _FREE,
  "reference": Bound(choices=("online", "cached")),
  "reference_cache": _FOLDER,
  "trainable": _REGEX,
  "lora.rank": _count(4096, 1),
  "lora.alpha": Bound(above=0, most=1e6, note="0 would train nothing"),
  "lora.targets": _REGEX,
  "adapter": _FOLDER,
  "projector_lr": Bound(least=0, most=10, note="0 freezes it"),
  "lr": Bound(above=0, most=10, note="0 would train nothing"),
  "schedule": Bound(choices=("cosine", "linear", "constant")),
  "warmup_ratio": Bound(least=0, most=1, note="a share of the steps"),
  "warmup_steps": _count(also=-1, note="-1: by warmup_ratio"),
  "weight_decay": Bound(least=0, most=10),
  "b1": Bound(least=0, most=0.999999),
  "b2": Bound(least=0, most=0.9999999),
  "eps": Bound(above=0, most=1),
  "clip_norm": Bound(least=0, most=1e9, note="0 does not clip"),
  "batch_size": _count(2**16, 1),
  "grad_accum": _count(2**16, 1),
  "epochs": Bound(above=0, most=1e5),
  "steps": _count(note="0: by epochs"),
  "on_nonfinite": Bound(choices=("raise", "skip")),
  "dtype": Bound(choices=("bfloat16", "float32")),
  "base": Bound(choices=("bf16", "int8", "nf4")),
  "matmul": Bound(choices=("bf16", "int8", "fp8")),
  "attention": Bound(choices=("auto", "xla", "cudnn", "splash")),
  "remat": Bound(choices=("full", "attention", "mlp", "dots", "none")),
  "head_chunk": _count(2**24, 1),
  "share_prefix": _FREE,
  "mesh.data": _AXIS,
  "mesh.fsdp": _AXIS,
  "mesh.tensor": _AXIS,
  "checkpoint.every": _count(note="0: at the end only"),
  "checkpoint.keep": _count(10**6, 1),
  "checkpoint.best": _FREE,
  "checkpoint.best_mode": Bound(choices=("min", "max")),
  "log.every": _count(note="0 prints no lines"),
  "log.tensorboard": _FREE,
  "log.wandb": _FREE,
  "log.profile_steps": _count(10**6, note="0: no trace"),
  "log.samples": _count(note="0: no sample answers"),
  "eval.every": _count(note="0: at the end only"),
  "eval.benchmarks": _FREE,
  "eval.data": _FOLDER,
  "eval.images": _FOLDER,
  "eval.judge": _FREE,
  "eval.judge_base_url": _FREE,
  "eval.limit": _count(note="0: all questions"),
  "eval.patience": _count(note="0 does not stop early"),
}


def table() -> str:
  """One line per field with its valid values, for --help."""
  lines = [f"  {path}: {bound.wanted()}" for path, bound in BOUNDS.items()]
  return "\n".join(line for line in lines if not line.endswith(": "))


def check(
  fields: dict[str, Any], skip: Callable[[str], bool] = lambda path: False
) -> None:
  """Checks the values of all fields.

  Args:
    fields: dotted path -> value, see `config.flat_fields`.
    skip: fields that are not checked.

  Raises:
    UserError: a field has a value that is not valid; the error lists the valid
      ones.
  """
  for path, value in fields.items():
    bound = BOUNDS.get(path)
    if bound is None or skip(path):
      continue
    if bound.required and value == "":
      raise UserError(
        f"config.{path} is empty; --help says which file or folder to give"
      )
    if bound.path and is_remote(str(value)):
      raise UserError(
        f"config.{path}={value}: training reads and writes folders of this "
        "machine only; copy it here, or mount the bucket (gcsfuse, s3fs)"
      )
    if not bound.holds(value):
      raise UserError(f"config.{path}={value!r}: want {bound.wanted()}")


# what other trainers call our fields
_ELSEWHERE = {
  "learning_rate": "lr",
  "num_epochs": "epochs",
  "num_train_epochs": "epochs",
  "max_steps": "steps",
  "total_steps": "steps",
  "train_batch_size": "batch_size",
  "per_device_train_batch_size": "batch_size",
  "gradient_accumulation_steps": "grad_accum",
  "gradient_checkpointing": "remat",
  "lr_scheduler_type": "schedule",
  "warmup": "warmup_ratio",
  "max_grad_norm": "clip_norm",
  "adam_beta1": "b1",
  "adam_beta2": "b2",
  "adam_epsilon": "eps",
  "mm_projector_lr": "projector_lr",
  "lora_r": "lora.rank",
  "lora_rank": "lora.rank",
  "lora_alpha": "lora.alpha",
  "lora_target_modules": "lora.targets",
  "beta": "objective.hyper.beta",
  "loss": "objective.name",
  "save_steps": "checkpoint.every",
  "save_total_limit": "checkpoint.keep",
  "logging_steps": "log.every",
  "eval_steps": "eval.every",
  "model": "init",
  "model_name_or_path": "init",
  "checkpoint": "init",
  "data_path": "data.train",
  "dataset": "data.train",
  "num_workers": "data.workers",
  "dataloader_num_workers": "data.workers",
  "bf16": "dtype",
  "precision": "dtype",
}


def nearest(path: str, fields: Sequence[str]) -> str:
  """The field that a wrong name most likely stands for: found by the name that
  another trainer uses, by its last part, else by its letters.
  """
  name = path.rpartition(".")[2].lower().replace("-", "_")
  known = _ELSEWHERE.get(name)
  if known is not None:
    return known
  same = [field for field in fields if field.rpartition(".")[2] == name]
  return (same or difflib.get_close_matches(path, fields, 1, 0.0))[0]
