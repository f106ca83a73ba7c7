"""Names of hardware, what it holds and how fast it is. Imports no JAX."""

import dataclasses
import math
import os
import re

from povid_jax.errors import UserError
from povid_jax.models.chips import GPUS, TPUS, Chip, by_memory, card_memory

# each takes a thread and a share of the compile
_MOST_VIRTUAL = 256


@dataclasses.dataclass(frozen=True)
class Topology:
  """Hardware by name.

  Attributes:
    name: as it was given.
    platform: cpu | gpu | tpu.
    devices: how many.
    chip: each of them.
    assumed: the model whose speed is taken, for GPUs.
  """

  name: str
  platform: str
  devices: int
  chip: Chip
  assumed: str = ""


def parse(name: str) -> Topology:
  """Raises UserError with the forms there are."""
  kind, _, rest = name.strip().lower().partition(":")
  if kind in TPUS and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", rest):
    sides = [int(side) for side in rest.split("x")]
    _check_sides(name, kind, sides)
    count = math.prod(sides)
    return Topology(f"{kind}:{rest}", "tpu", count, TPUS[kind])
  if kind == "cpu" and re.fullmatch(r"[1-9]\d*", rest):
    if int(rest) > _MOST_VIRTUAL:
      raise UserError(
        f"--topology={name!r}: want at most {_MOST_VIRTUAL} virtual devices"
      )
    return Topology(name, "cpu", int(rest), Chip(_host_memory()))
  if kind == "gpu":
    found = re.fullmatch(r"(?:([1-9]\d*)x)?([a-z0-9-]+)", rest)
    count, model = (int(found[1] or 1), found[2]) if found else (0, "")
    size = re.fullmatch(r"([1-9]\d*)gb", model)
    if model in GPUS:
      return Topology(name, "gpu", count, GPUS[model], model)
    if size and found and found[1]:
      model = by_memory(int(size[1]))
      memory = card_memory(int(size[1]))
      chip = dataclasses.replace(GPUS[model], memory=memory)
      return Topology(name, "gpu", count, chip, f"{model}, the slowest of it")
  raise UserError(
    f"--topology={name!r}: want {', '.join(f'{t}:AxB' for t in TPUS)} "
    f"(AxBxC for v4 and v5p), gpu:NxCARD ({', '.join(GPUS)}), gpu:NxMGB or "
    "cpu:N"
  )


def _check_sides(name: str, kind: str, sides: list[int]) -> None:
  most = TPUS[kind].sides
  fits = len(sides) == len(most) and all(
    side <= limit
    for side, limit in zip(sorted(sides), sorted(most), strict=True)
  )
  if not fits:
    form = "x".join("ABC"[: len(most)])
    raise UserError(
      f"--topology={name!r}: want {kind}:{form}, at most "
      f"{kind}:{'x'.join(map(str, most))}"
    )


def _host_memory() -> int:
  """Bytes of this machine, which virtual devices share."""
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
