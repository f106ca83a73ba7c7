"""Names of hardware, what it holds and how fast it is. Imports no JAX."""

import dataclasses
import math
import os
import re

from povid_jax.errors import UserError

GB = 10**9
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device of JAX.

  Attributes:
    memory: bytes that a program can use.
    flops: dense bfloat16 FLOP/s, or None where that says nothing.
    bandwidth: bytes/s of its memory, or None.
    sides: of the largest slice, for TPUs: libtpu kills the process that asks
      for a slice of other dimensions.
  """

  memory: int
  flops: float | None = None
  bandwidth: float | None = None
  sides: tuple[int, ...] = ()


# Memory as the compiler reports it: a little is kept by the system.
_TPUS = {
  "v4": Chip(int(30.75 * GIB), 275e12, 1228e9, (16, 16, 16)),
  "v5e": Chip(int(15.75 * GIB), 197e12, 819e9, (16, 16)),
  "v5p": Chip(int(95.74 * GIB), 459e12, 2765e9, (16, 20, 28)),
  "v6e": Chip(int(31.25 * GIB), 918e12, 1640e9, (16, 16)),
}
# each takes a thread and a share of the compile
_MOST_VIRTUAL = 256
# by the least memory in GB; the newest chip of a size may be faster
_GPUS = (
  (140, 989e12, 4800e9, "H200"),
  (90, 989e12, 4000e9, "H100 NVL"),
  (80, 312e12, 2039e9, "A100 80GB"),
  (40, 312e12, 1555e9, "A100 40GB"),
  (0, 125e12, 600e9, "A10"),
)


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
  if kind in _TPUS and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", rest):
    sides = [int(side) for side in rest.split("x")]
    _check_sides(name, kind, sides)
    count = math.prod(sides)
    return Topology(f"{kind}:{rest}", "tpu", count, _TPUS[kind])
  if kind == "cpu" and re.fullmatch(r"[1-9]\d*", rest):
    if int(rest) > _MOST_VIRTUAL:
      raise UserError(
        f"--topology={name!r}: want at most {_MOST_VIRTUAL} virtual devices"
      )
    return Topology(name, "cpu", int(rest), Chip(_host_memory()))
  gpus = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)gb", rest)
  if kind == "gpu" and gpus:
    count, size = int(gpus[1]), int(gpus[2])
    _, speed, bandwidth, model = next(g for g in _GPUS if size >= g[0])
    # the driver, its context and the allocator's gaps
    chip = Chip(int(0.92 * size * GB), speed, bandwidth)
    return Topology(name, "gpu", count, chip, model)
  raise UserError(
    f"--topology={name!r}: want {', '.join(f'{t}:AxB' for t in _TPUS)} "
    "(AxBxC for v4 and v5p), gpu:NxMGB or cpu:N"
  )


def _check_sides(name: str, kind: str, sides: list[int]) -> None:
  most = _TPUS[kind].sides
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
