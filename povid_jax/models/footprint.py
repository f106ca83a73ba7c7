"""Memory of a step by formula, for one device.

The formulas name what is large: what the layers keep for the backward pass,
and the working set of one layer and of the vocabulary head. A compiler's number
includes what they leave out; `planning` uses the compiler where there is one.
"""

import dataclasses
import math

import jax

from povid_jax.models import attention, tower_costs
from povid_jax.models.config import LlavaConfig, LoraConfig
from povid_jax.models.sizes import decoder_linears


@dataclasses.dataclass(frozen=True)
class Load:
  """What one device runs at a time.

  Attributes:
    config, lora: the network.
    rows: pairs of a microbatch on this device.
    prefix, branch, branches: P, C and N.
    tiles: squares of a row that the tower sees at a time, or its patches.
    tensor: devices that a layer is cut over.
    itemsize: bytes of an activation.
    kernel_itemsize: bytes of a decoder's weight as it is multiplied.
    remat, head_chunk, attention: of the config.
  """

  config: LlavaConfig
  lora: LoraConfig | None
  rows: int
  prefix: int
  branch: int
  branches: int
  tensor: int
  itemsize: int
  kernel_itemsize: int
  remat: str
  head_chunk: int
  attention: str
  tiles: int = 1

  @property
  def tokens(self) -> int:
    return self.rows * (self.prefix + self.branches * self.branch)


def activations(load: Load) -> int:
  """Bytes kept over all layers from the forward to the backward pass."""
  config = load.config.decoder
  dim, wide = config.hidden_size, config.intermediate_size
  queries = config.num_heads * config.head_dim
  keys = config.num_kv_heads * config.head_dim
  rank = load.lora.rank if load.lora else 0
  # what tensor parallelism cuts, and what each device has whole
  cut, whole = 0, dim
  if load.remat == "attention":
    cut = queries
  elif load.remat == "mlp":
    cut = 2 * wide
  elif load.remat == "dots":
    cut, whole = queries + 2 * keys + 2 * wide, 2 * dim + 7 * rank
  elif load.remat == "none":
    cut = 3 * queries + 4 * keys + 4 * wide
    whole = 8 * dim + 7 * rank
  per_token = cut / load.tensor + whole
  total = config.num_layers * load.tokens * per_token * load.itemsize
  if load.remat == "none" and load.attention == "xla":
    total += config.num_layers * 2 * _attention_weights(load)
  return int(total)


def _attention_weights(load: Load) -> int:
  """Bytes of the float32 attention weights of a layer."""
  # the prefix is read in blocks that end at the diagonal
  prefix = load.prefix * (load.prefix + attention.queries(load.prefix)) / 2
  branches = load.branches * load.branch * (load.prefix + load.branch)
  heads = load.config.decoder.num_heads / load.tensor
  return int(4 * load.rows * heads * (prefix + branches))


def temporaries(load: Load) -> int:
  """Bytes of the largest working set: a layer's, the head's or a tower's."""
  vision = tower_costs.of(load.config).memory
  tower = vision(load.config, load.rows, load.tiles, load.itemsize)
  return max(_layer(load), _head(load), tower)


def _layer(load: Load) -> int:
  config = load.config.decoder
  dim, wide = config.hidden_size, config.intermediate_size
  queries = config.num_heads * config.head_dim
  kernels = layer_weights(load.config) / load.tensor
  width = 8 * dim + (4 * queries + 6 * wide) / load.tensor
  work = load.tokens * width * load.itemsize
  if load.kernel_itemsize < load.itemsize:  # codes, and sums of 32 bits
    work += load.tokens * 5 * wide / load.tensor
  if load.attention == "xla":
    work += 3 * _attention_weights(load)
  # the next layer's weights are fetched while this one runs
  return int(2 * kernels * load.kernel_itemsize + work)


def layer_weights(config: LlavaConfig) -> int:
  """Weights of the kernels of one decoder layer."""
  layers = decoder_linears(config.decoder)
  return sum(layer.inputs * layer.outputs for layer in layers)


def _head(load: Load) -> int:
  config = load.config.decoder
  kernel = config.hidden_size * config.vocab_size * load.itemsize
  scored = load.rows * load.branches * load.branch
  logits = 4 * min(load.head_chunk, scored) * config.vocab_size
  return int((kernel + 3 * logits) / load.tensor)


def traffic(load: Load, state: dict[str, int], passes: int) -> int:
  """Bytes that must cross the memory bus in a step, a bound from below.

  Args:
    state: bytes of trained, optimizer and gradients.
    passes: times that the decoder's weights are read, forward and backward.
  """
  layers = load.config.decoder.num_layers * layer_weights(load.config)
  read = passes * layers * load.kernel_itemsize / load.tensor
  # state is read and written, activations written and read
  state_moved = 2 * sum(
    state[kind] for kind in ("trained", "optimizer", "gradients")
  )
  return int(read + state_moved + 2 * activations(load))


def held(leaves: list[jax.ShapeDtypeStruct]) -> int:
  """Bytes of the parts that one device holds of arrays with a sharding."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in leaves
  )
