"""Matrix-product FLOPs of one training step, counted from the dimensions.

A product of [m, k] and [k, n] is 2 m k n. Norms, softmax, rotary embedding and
the optimizer are left out: they cost memory traffic, not FLOPs. Attention is
counted as the `xla` backend computes it (the whole square, masked); padding
counts like any token. So the numbers agree with what the compiler counts, and
an MFU from them charges us for our own padding.

Every part is a `Work` of three numbers:
  forward    of all passes, with or without gradient
  backward   input gradients, and weight gradients where a weight is trained
  recompute  forward work done again because of rematerialisation
"Model FLOPs" (for MFU) are the first two, "hardware FLOPs" all three.
"""

import dataclasses
import re

from povid_jax.models import decoder_costs, sizes, tower_costs
from povid_jax.models.decoder_costs import Pass
from povid_jax.models.work import Setup, Work


def vision(
  model: Setup,
  tiles: float,
  gradient: bool = True,
  rows: float = 1.0,
  adapter: bool = True,
) -> Work:
  """The vision tower up to its feature layer, for so many distinct squares.

  With `gradient` a backward pass is counted where the tower is trained.

  Args:
    rows: that have these tiles together; where tiles are patches of whole
      pictures, those of a row see each other.
    adapter: LoRA takes part, where it has the tower's layers among its targets.
  """
  cost = tower_costs.of(model.config)
  parts = cost.forward(model.config, tiles, rows)
  low = _tower_adapters(model, tiles) if adapter else 0.0
  forward = sum(parts) + low
  trained = model.trains(cost.KERNEL)
  if not gradient or not (trained or low):
    return Work(forward)
  backward = parts.linears + 2 * parts.attention + 2 * low
  if trained:
    backward += parts.linears + parts.patches
  again = cost.again(model.config, model.remat)
  return Work(forward, backward, forward if again else 0.0)


def _tower_adapters(model: Setup, tiles: float) -> float:
  if model.lora is None:
    return 0.0
  times, linears = tower_costs.of(model.config).layers(model.config)
  rank, targets = model.lora.rank, model.lora.targets
  weights = sizes.low_rank(linears, "vision/layers", rank, targets)
  return 2 * times * tiles * weights


def _tower_changes(model: Setup) -> bool:
  """Whether the policy's tower is another than the reference's."""
  kernel = tower_costs.of(model.config).KERNEL
  return model.trains(kernel) or _tower_adapters(model, 1.0) > 0


def projector(
  model: Setup, tiles: float, gradient: bool = True, adapter: bool = True
) -> Work:
  """The projector over the features of so many squares."""
  tokens, linears = tower_costs.of(model.config).projector(model.config, tiles)
  # whether something before the layer is trained, which its input's gradient
  # is for
  before = _tower_changes(model)
  total = Work()
  for linear in linears:
    path = f"projector/{linear.name}"
    base = 2 * tokens * linear.inputs * linear.outputs
    low = high = 0.0
    if adapter and model.lora and re.search(model.lora.targets, path):
      low = 2 * tokens * linear.inputs * model.lora.rank
      high = 2 * tokens * model.lora.rank * linear.outputs
    trained = model.trains(f"{path}/kernel")
    backward = low + 2 * high  # weights of both, and what A's product gets
    backward += base if trained else 0.0
    backward += base + low if before else 0.0
    total += Work(base + low + high, backward if gradient else 0.0)
    before = before or trained or low > 0
  return total


def _projector_changes(model: Setup) -> bool:
  """Whether the policy's image tokens are others than the reference's."""
  return _tower_changes(model) or projector(model, 1.0).backward > 0


def kernels(model: Setup, step: "Step") -> Work:
  """Of a step: what the decoder's frozen kernels are multiplied for."""
  return sum(
    (decoder_costs.kernels(model, run) for run in step.passes()), Work()
  )


@dataclasses.dataclass(frozen=True)
class Step:
  """The work of one optimizer step.

  Attributes:
    batch: examples of the step (all devices, all microbatches).
    prefix, branches, length: P, N, C; N counts what the policy scores with a
      gradient under the clean image (2 for a preference pair).
    tiles: squares that the tower sees per example, on average: images, or
      the tiles that they are cut into.
    reference: none | online | cached.
    noise: None, or whose noise tokens the reference scores: own | policy.
    corrupted: the chosen answer is scored under a distorted image (mdpo).
    share_prefix: False runs the prefix once for each branch.
  """

  batch: int
  prefix: int
  branches: int
  length: int
  tiles: float = 1
  reference: str = "none"
  noise: str | None = None
  corrupted: bool = False
  share_prefix: bool = True

  def passes(self) -> list[Pass]:
    """Every run of the decoder in the step."""
    rows, branches = self.batch, self.branches
    if not self.share_prefix:
      rows, branches = rows * branches, 1
    pair = Pass(rows, self.prefix, branches, self.length, gradient=True)
    one = Pass(self.batch, self.prefix, 1, self.length)
    off = lambda run: dataclasses.replace(run, adapter=False, gradient=False)
    online = self.reference == "online"
    runs = [pair, *([off(pair)] if online else [])]
    if self.noise:
      runs.append(one)
    if self.noise == "own" and online:
      runs.append(off(one))
    if self.noise == "policy" and self.reference == "cached":
      runs.append(off(one))  # these tokens change with the policy
    if self.corrupted:
      wide = dataclasses.replace(one, gradient=True)
      runs += [wide, *([off(wide)] if online else [])]
    return runs


def _own_pictures(step: Step) -> int:
  """How often the reference encodes pictures where it sees others."""
  if step.reference == "online":
    return 1 + (step.noise == "own" or step.corrupted)
  return int(step.reference == "cached" and step.noise == "policy")


def of(model: Setup, step: Step) -> dict[str, Work]:
  """FLOPs of a step by part: vision, projector, decoder, head, total.

  The clean image is encoded once for policy and reference; a noisy or
  distorted image is one more. Where tower or projector is trained, the
  reference's own runs once more (see objectives.logps); two runs of one frozen
  tower on the same pictures become one in XLA.
  """
  clean = step.batch * step.tiles
  times = bool(step.noise) + step.corrupted
  parts = {"vision": Work(), "projector": Work()}
  for n, gradient in ((1, True), (times, step.corrupted)):
    parts["vision"] += vision(model, clean * n, gradient, step.batch * n)
    parts["projector"] += projector(model, clean * n, gradient)
  own = _own_pictures(step)
  if _tower_changes(model):
    parts["vision"] += vision(
      model, clean * own, False, step.batch * own, adapter=False
    )
  if _projector_changes(model):
    parts["projector"] += projector(model, clean * own, False, adapter=False)
  parts |= {"decoder": Work(), "head": Work()}
  for run in step.passes():
    parts["decoder"] += decoder_costs.decoder(model, run)
    parts["head"] += decoder_costs.head(model, run)
  total = Work()
  for work in parts.values():
    total += work
  return {**parts, "total": total}
