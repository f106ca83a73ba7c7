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
from collections.abc import Callable

from povid_jax.models import sizes, tower_costs
from povid_jax.models.config import LlavaConfig, LoraConfig
from povid_jax.models.llama import last_layer_is_short


@dataclasses.dataclass(frozen=True)
class Work:
  """FLOPs by kind; they add up, and scale by a number."""

  forward: float = 0.0
  backward: float = 0.0
  recompute: float = 0.0

  @property
  def model(self) -> float:
    return self.forward + self.backward

  @property
  def hardware(self) -> float:
    return self.forward + self.backward + self.recompute

  def __add__(self, other: "Work") -> "Work":
    return Work(
      self.forward + other.forward,
      self.backward + other.backward,
      self.recompute + other.recompute,
    )

  def __mul__(self, times: float) -> "Work":
    return Work(
      self.forward * times, self.backward * times, self.recompute * times
    )


@dataclasses.dataclass(frozen=True)
class Pass:
  """One run of the decoder over `rows` rows of a prefix and its branches.

  Attributes:
    rows: examples.
    prefix: P, tokens of the (padded) prefix, image tokens included.
    branches: N.
    length: C, tokens of a (padded) branch; N * C of a row are scored.
    adapter: LoRA takes part.
    gradient: a backward pass follows.
    head: the vocabulary head runs over the scored positions.
  """

  rows: int
  prefix: int
  branches: int
  length: int
  adapter: bool = True
  gradient: bool = False
  head: bool = True

  @property
  def tokens(self) -> int:
    return self.rows * (self.prefix + self.branches * self.length)

  @property
  def scored(self) -> int:
    return self.rows * self.branches * self.length

  def attended(self, last: bool, masked: bool) -> int:
    """(query, key) pairs of one layer: causal prefix, branches over both.

    Args:
      last: the queries of branches alone.
      masked: pairs that the mask closes count too.
    """
    own = lambda n: n * n if masked else n * (n + 1) // 2
    branch = self.length * self.prefix + own(self.length)
    prefix = 0 if last else own(self.prefix)
    return self.rows * (prefix + self.branches * branch)


@dataclasses.dataclass(frozen=True)
class Setup:
  """What `of` needs to know of a run.

  Attributes:
    config: dimensions.
    lora: adapters, or None.
    trains: whether the parameter at a flat path gets a gradient.
    remat: name of the rematerialisation policy (see models.llama.REMAT).
    masked: whether (query, key) pairs that the mask closes are counted.
  """

  config: LlavaConfig
  lora: LoraConfig | None = None
  trains: Callable[[str], bool] = lambda path: path.endswith(
    ("/lora_a", "/lora_b")
  )
  remat: str = "none"
  masked: bool = True


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


def decoder(model: Setup, run: Pass) -> Work:
  """Linear layers (adapters included) and attention of all layers."""
  return _of_layers(
    model,
    lambda last: _attention(model, run, last) + _linears(model, run, last),
  )


def _of_layers(model: Setup, layer: Callable[[bool], Work]) -> Work:
  """All layers; `layer` is told whether it is the last one."""
  decoder = model.config.decoder
  adapted = model.lora is not None and any(
    re.search(model.lora.targets, f"decoder/layers/{linear.name}")
    for linear in sizes.decoder_linears(decoder)
  )
  short = last_layer_is_short(decoder.num_layers, adapted, model.remat)
  return layer(False) * (decoder.num_layers - 1) + layer(short)


def _linears(model: Setup, run: Pass, last: bool) -> Work:
  total = Work()
  for linear in sizes.decoder_linears(model.config.decoder):
    all_tokens = not last or linear.name.endswith(("k_proj", "v_proj"))
    tokens = run.tokens if all_tokens else run.scored
    total += _linear(model, run, linear, tokens)
  return total


def _linear(model: Setup, run: Pass, linear: sizes.Sizes, tokens: int) -> Work:
  path = f"decoder/layers/{linear.name}"
  base = 2 * tokens * linear.inputs * linear.outputs
  low = high = 0  # x A and (x A) B
  if run.adapter and model.lora and re.search(model.lora.targets, path):
    low = 2 * tokens * linear.inputs * model.lora.rank
    high = 2 * tokens * model.lora.rank * linear.outputs
  if not run.gradient:
    return Work(base + low + high)
  backward = base + low + high
  backward += base if model.trains(f"{path}/kernel") else 0
  backward += low if model.trains(f"{path}/lora_a") else 0
  backward += high if model.trains(f"{path}/lora_b") else 0
  again = 0.0
  if model.remat in ("full", "attention", "mlp"):
    again = base + low + high
    kept = ("gate_proj", "up_proj") if model.remat == "mlp" else ()
    if path.endswith(("down_proj", *kept)):
      # its output is kept, or nothing in the layer reads it: of it only x A
      # is needed again
      again = low
  return Work(base + low + high, backward, again)


def _attention(model: Setup, run: Pass, last: bool) -> Work:
  config = model.config.decoder
  pairs = run.attended(last, model.masked)
  product = 2 * pairs * config.num_heads * config.head_dim
  if not run.gradient:
    return Work(2 * product)
  # "attention" keeps the output, so only queries x keys is done again
  again = {"none": 0, "attention": 1}.get(model.remat, 2)
  return Work(2 * product, 4 * product, again * product)


def kernels(model: Setup, step: "Step") -> Work:
  """Of a step: what the decoder's frozen kernels are multiplied for."""
  total = Work()
  for run in step.passes():
    bare = dataclasses.replace(run, adapter=False)
    total += _of_layers(
      model, lambda last, run=bare: _linears(model, run, last)
    )
  return total


def head(model: Setup, run: Pass) -> Work:
  """The vocabulary head at the scored positions."""
  if not run.head:
    return Work()
  config = model.config.decoder
  product = 2 * run.scored * config.hidden_size * config.vocab_size
  if not run.gradient:
    return Work(product)
  name = "embed_tokens/embedding" if config.tie_embeddings else "lm_head/kernel"
  trained = model.trains(f"decoder/{name}")
  # logits are not kept for the backward pass: every chunk is done again
  return Work(product, product * (2 if trained else 1), product)


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
    parts["decoder"] += decoder(model, run)
    parts["head"] += head(model, run)
  total = Work()
  for work in parts.values():
    total += work
  return {**parts, "total": total}
