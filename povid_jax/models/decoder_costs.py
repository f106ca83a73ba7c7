"""FLOPs of one run of the decoder: its layers and the vocabulary head."""

import dataclasses
import re
from collections.abc import Callable

from povid_jax.models import sizes
from povid_jax.models.llama import last_layer_is_short
from povid_jax.models.work import Setup, Work


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


def kernels(model: Setup, run: Pass) -> Work:
  """What the kernels of the layers are multiplied for, without adapters."""
  bare = dataclasses.replace(run, adapter=False)
  return _of_layers(model, lambda last: _linears(model, bare, last))


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
