"""Accelerators by name: memory, peak FLOP/s, bandwidth. Imports no JAX.

Speeds are dense bfloat16 with float32 sums, from the vendors' data sheets;
MEASURED has what was measured beside them. Products of 8 bits are twice as fast
there, or faster (int8 of the 4090 and the 3090).
"""

import dataclasses

GB = 10**9
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device of JAX: a whole card, or a whole chip of a TPU.

  Attributes:
    memory: bytes that a program can use.
    flops: dense bfloat16 FLOP/s, or None if it is not meaningful.
    bandwidth: bytes/s of its memory, or None.
    links: bytes/s of all its links to other chips of a slice, both ways
      together, or None where we do not know them.
    sides: of the largest slice, for TPUs: libtpu kills the process that asks
      for a slice of other dimensions.
    kinds: parts of the names that JAX has for it (jax.Device.device_kind).
    eight: formats of 8 bits that it multiplies faster than bfloat16.
  """

  memory: int
  flops: float | None = None
  bandwidth: float | None = None
  links: float | None = None
  sides: tuple[int, ...] = ()
  kinds: tuple[str, ...] = ()
  eight: tuple[str, ...] = ("int8",)

  def speed(self, share: float) -> float | None:
    """FLOP/s where this share of the FLOPs is in products of 8 bits."""
    return self.flops / (1 - share / 2) if self.flops else None


def card_memory(size: int) -> int:
  """Of so many GB; the driver and the allocator's gaps take their part."""
  return int(0.92 * size * GB)


def _card(
  size: int, flops: float, bandwidth: float, *kinds: str, fp8: bool = True
) -> Chip:
  eight = ("int8", "fp8") if fp8 else ("int8",)
  memory = card_memory(size)
  return Chip(memory, flops, bandwidth, None, (), kinds, eight)


# Memory as the compiler reports it: the system keeps a small part.
TPUS = {
  "v4": Chip(
    int(30.75 * GIB), 275e12, 1228e9, 270e9, (16, 16, 16), ("tpu v4",), ()
  ),
  "v5e": Chip(
    int(15.75 * GIB),
    197e12,
    819e9,
    180e9,
    (16, 16),
    ("v5 lite", "v5litepod", "v5e"),
  ),
  "v5p": Chip(
    int(95.74 * GIB), 459e12, 2765e9, 540e9, (16, 20, 28), ("v5p", "tpu v5")
  ),
  "v6e": Chip(
    int(31.25 * GIB), 918e12, 1640e9, 360e9, (16, 16), ("v6 lite", "v6e")
  ),
}
# A name that contains another comes first.
GPUS = {
  "b200": _card(180, 2250e12, 8000e9, "b200"),
  "h200": _card(141, 989e12, 4800e9, "h200"),
  "h100-nvl": _card(94, 835e12, 3900e9, "h100 nvl"),
  "h100-pcie": _card(80, 756e12, 2000e9, "h100 pcie"),
  "h100": _card(80, 989e12, 3350e9, "h100"),
  "a100-80": _card(80, 312e12, 2039e9, "a100", fp8=False),
  "a100-40": _card(40, 312e12, 1555e9, "a100", fp8=False),
  "a10g": _card(24, 70e12, 600e9, "a10g", fp8=False),
  "a10": _card(24, 125e12, 600e9, "a10", fp8=False),
  "l40s": _card(48, 362e12, 864e9, "l40s"),
  "l4": _card(24, 121e12, 300e9, "nvidia l4"),
  "6000-ada": _card(48, 364e12, 960e9, "6000 ada"),
  "a6000": _card(48, 155e12, 768e9, "a6000", fp8=False),
  "4090": _card(24, 165e12, 1008e9, "4090"),
  "3090": _card(24, 71e12, 936e9, "3090", fp8=False),
}
# What docs/performance.md measured: stage 1 and 2 of LLaVA-1.5 7B with a LoRA,
# online reference, 16 pairs of 704 + 2 x 256 tokens a step, remat=full.
# Pairs a second, and GB as compiled.
MEASURED = {"h200": (8.44, 6.13, 29.1), "h100": (8.40, 6.09, 29.1)}


def measured(name: str) -> str:
  """What was measured on a GPU of this name, in a sentence."""
  if name not in MEASURED:
    others = " and ".join(MEASURED)
    return f"nothing was measured on the {name} yet, only on {others}"
  first, second, size = MEASURED[name]
  return (
    f"measured on one {name} (docs/performance.md): LLaVA-1.5 7B, online "
    f"reference, 16 pairs of 704 + 2 x 256 tokens a step: {first} pairs/s in "
    f"stage 1, {second} in stage 2, {size} GB"
  )


def peak_flops(device_kind: str) -> float | None:
  """Dense bf16 FLOP/s of a device kind; None where we do not know it."""
  kind = device_kind.lower()
  every = [*GPUS.values(), *TPUS.values()]
  return next(
    (c.flops for c in every if any(name in kind for name in c.kinds)), None
  )


def by_memory(size: int) -> str:
  """The slowest usual card that has `size` GB, for a plan that names none."""
  for name in ("h200", "h100-nvl", "a100-80", "a6000", "a100-40", "a10"):
    if card_memory(size) >= GPUS[name].memory:
      return name
  return "a10"
