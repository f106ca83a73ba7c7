"""The shortest time that a step can take on a chip, limit by limit."""

import dataclasses

from povid_jax.models.chips import Chip
from povid_jax.plan.program import Program

# bytes that cross a chip's links for each one of `Program.bytes`, on a ring: an
# all-reduce is a reduce-scatter and an all-gather; of an all-to-all a
# quarter goes each way
_CROSSINGS = {"all-reduce": 2.0, "all-to-all": 0.25}


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds of a step if one thing alone took time, from data sheets.

  Attributes:
    arithmetic: the FLOPs of one device, with rematerialisation, at its peak.
    memory: bytes that cross its memory bus, a bound from below.
    links: bytes of its collectives over all its links.
    sent: bytes of its collectives by kind, see `Program.bytes`.
  """

  arithmetic: float
  memory: float
  links: float
  sent: dict[str, int]

  @property
  def seconds(self) -> float:
    """A step if everything overlaps."""
    return max(self.arithmetic, self.memory, self.links)

  @property
  def limit(self) -> str:
    kinds = {
      "arithmetic": self.arithmetic,
      "memory": self.memory,
      "links": self.links,
    }
    return max(kinds, key=lambda name: kinds[name])

  @property
  def efficiency(self) -> float:
    """Share of the arithmetic's peak that is left."""
    return self.arithmetic / self.seconds


def roofline(
  chip: Chip, program: Program, flops: float, moved: float
) -> Roofline | None:
  """None for a chip whose speeds we do not know.

  Args:
    flops: of one device, what is computed again included.
    moved: bytes over its memory bus.
  """
  if not (chip.flops and chip.bandwidth and chip.links):
    return None
  crossed = sum(
    _CROSSINGS.get(kind, 1.0) * size for kind, size in program.bytes.items()
  )
  return Roofline(
    arithmetic=flops / chip.flops,
    memory=moved / chip.bandwidth,
    links=crossed / chip.links,
    sent=program.bytes,
  )
