"""The rows of the accelerator's table, see benchmarks/step_sweep.py."""

import dataclasses
from collections.abc import Sequence

from povid_jax.models import products

# config.objective.name of each
STAGES = {"stage 2": "povid", "stage 1": "dpo"}


@dataclasses.dataclass(frozen=True)
class What:
  """One row of the table: see the config fields of these names.

  Attributes:
    work: shared, plain (share_prefix off) or released (released_step).
  """

  stage: str
  batch: int
  attention: str
  remat: str
  reference: str = "online"
  work: str = "shared"
  matmul: str = "bf16"

  def __str__(self) -> str:
    return (
      f"{self.stage}  {self.attention:<6} batch {self.batch:>2}  "
      f"remat {self.remat:<9} reference {self.reference:<6} {self.work:<8} "
      f"{self.matmul}"
    )


def waves(batches: Sequence[int], usable: Sequence[str]) -> list[list[What]]:
  """All rows, in the order of their worth.

  The first backend's largest batches come first, with all and with nothing
  recomputed; then products of 8 bits; then what lies between, smaller batches
  and the cached reference; then other ways to do the same, at the smallest
  batch, which is the released one, and the largest; last the other backends.
  """
  best, *others = usable
  sizes = sorted(batches, reverse=True)
  large, small = sizes[:2], sizes[2:]
  # what a card of 80 GB holds of LLaVA-1.5-7B
  fitting = lambda size: "mlp" if size > 8 else "dots"
  both = lambda *rest, **more: [What(s, *rest, **more) for s in STAGES]
  first, second = [], []
  for size in large:
    for remat in ("dots", "full"):
      first += both(size, best, remat)
  eight = [
    What("stage 2", sizes[0], best, "full", matmul=form)
    for form in products.KERNELS
  ]
  for size in large:
    second += both(size, best, "mlp")
    second += both(size, best, fitting(size), reference="cached")
  second += both(large[-1], best, "attention")
  for size in small:
    second += both(size, best, "dots")
  alone, most = sizes[-1], sizes[0]
  ways = [
    What("stage 2", alone, best, "dots", work="released"),
    What("stage 2", alone, best, "dots", work="plain"),
    What("stage 2", alone, best, "dots", reference="cached"),
    What("stage 2", most, best, "full", work="plain"),
    What("stage 2", most, best, "full", reference="cached", work="plain"),
  ]
  other = [
    what
    for backend in others
    for size in sizes
    for what in both(size, backend, fitting(size))
  ]
  return [wave for wave in (first, eight, second, ways, other) if wave]
