"""The Llama-family decoder: one stacked layer, scanned."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from povid_jax.errors import UserError
from povid_jax.models.config import DecoderConfig
from povid_jax.models.layers import (
  Linear,
  LoRA,
  RMSNorm,
  few,
  few_rows_product,
  float32_product,
  over_layers,
)
from povid_jax.models.partition import by_batch, gathered
from povid_jax.models.rope import rotary_table, rotate

Array = jax.Array
# (queries, keys, values, this layer's slice of `inputs`)
#   -> (attention output, what to stack over layers)
# With `tail` the last layer has the queries of the last tokens only.
Attend = Callable[[Array, Array, Array, Any], tuple[Array, Any]]

# From 64 rows on a product of the usual order is as fast on CPUs.
_FEW_ROWS = 32

_POLICIES = jax.checkpoint_policies
_named = _POLICIES.save_only_these_names
REMAT: dict[str, Any] = {
  "none": None,  # keep every intermediate
  "full": _POLICIES.nothing_saveable,  # keep the layer's input only
  "attention": _named("attention"),
  "mlp": _named("mlp"),  # keep what goes into the gate: 2/5 of what dots keeps
  # keep what linear layers give, adapter added: the sum, not both its terms
  "dots": _named("linear", "low"),
}


def last_layer_is_short(layers: int, frozen: bool, remat: str) -> bool:
  """Whether the last layer can be run for a part of the tokens.

  Weights that a loop over layers trains have their gradients in one piece with
  the last layer's: to take that one out would copy them all.

  Args:
    frozen: the layers' own weights are not trained, or have adapters.
  """
  return frozen or (REMAT[remat] is None and few(layers))


def _at(tree: Any, index: Any) -> Any:
  """One layer of stacked arrays, or several."""
  return jax.tree.map(lambda leaf: leaf[index], tree)


def _last(x_BT: Array, tail: int | None) -> Array:
  """The last tokens, or all."""
  return x_BT if tail is None else x_BT[:, -tail:]


class _Attention(nnx.Module):
  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    dim, head = config.hidden_size, config.head_dim
    stack = (config.num_layers,)
    bias = config.attention_bias
    heads, kv_heads = config.num_heads * head, config.num_kv_heads * head
    self.q_proj = Linear(dim, heads, rngs=rngs, bias=bias, stack=stack)
    self.k_proj = Linear(dim, kv_heads, rngs=rngs, bias=bias, stack=stack)
    self.v_proj = Linear(dim, kv_heads, rngs=rngs, bias=bias, stack=stack)
    self.o_proj = Linear(
      heads, dim, rngs=rngs, bias=config.output_bias, stack=stack
    )
    self.head_dim = head

  def __call__(
    self,
    x_BTD: Array,
    rotary: tuple[Array, Array],
    attend: Attend,
    inputs: Any,
    adapter: bool,
    tail: int | None,
  ) -> tuple[Array, Any]:
    split = lambda x: x.reshape(*x.shape[:-1], -1, self.head_dim)
    k = rotate(split(self.k_proj(x_BTD, adapter)), *rotary)
    v = split(self.v_proj(x_BTD, adapter))
    rotary = jax.tree.map(lambda x: _last(x, tail), rotary)
    q = rotate(split(self.q_proj(_last(x_BTD, tail), adapter)), *rotary)
    out, outputs = attend(q, k, v, inputs)
    out = checkpoint_name(out.reshape(*q.shape[:2], -1), "attention")
    return self.o_proj(out, adapter), outputs


class _Mlp(nnx.Module):
  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    dim, wide = config.hidden_size, config.intermediate_size
    stack = (config.num_layers,)
    self.gate_proj = Linear(dim, wide, rngs=rngs, stack=stack)
    self.up_proj = Linear(dim, wide, rngs=rngs, stack=stack)
    self.down_proj = Linear(wide, dim, rngs=rngs, stack=stack)

  def __call__(self, x_BTD: Array, adapter: bool) -> Array:
    gate = checkpoint_name(self.gate_proj(x_BTD, adapter), "mlp")
    up = checkpoint_name(self.up_proj(x_BTD, adapter), "mlp")
    return self.down_proj(jax.nn.silu(gate) * up, adapter)


class _Layer(nnx.Module):
  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    dim, eps = config.hidden_size, config.rms_norm_eps
    stack = (config.num_layers,)
    self.input_layernorm = RMSNorm(dim, eps, stack)
    self.self_attn = _Attention(config, rngs)
    self.post_attention_layernorm = RMSNorm(dim, eps, stack)
    self.mlp = _Mlp(config, rngs)

  def __call__(
    self,
    x_BTD: Array,
    rotary: tuple[Array, Array],
    attend: Attend,
    inputs: Any,
    adapter: bool,
    tail: int | None = None,
  ) -> tuple[Array, Any]:
    h, outputs = self.self_attn(
      self.input_layernorm(x_BTD), rotary, attend, inputs, adapter, tail
    )
    x_BTD = by_batch(_last(x_BTD, tail) + h)
    h = self.mlp(self.post_attention_layernorm(x_BTD), adapter)
    return by_batch(x_BTD + h), outputs


class _Embedding(nnx.Module):
  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    shape = (config.vocab_size, config.hidden_size)
    init = jax.random.normal(rngs.params(), shape)
    self.embedding = nnx.Param(init / math.sqrt(config.hidden_size))


class Llama(nnx.Module):
  """Token embedding, decoder layers, final norm and vocabulary head."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    self.embed_tokens = _Embedding(config, rngs)
    self.layers = _Layer(config, rngs)
    self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
    self.lm_head = (
      None
      if config.tie_embeddings
      else Linear(config.hidden_size, config.vocab_size, rngs=rngs)
    )
    self.config = config
    self.few_rows = False  # see `unstack`

  def embed(self, ids: Array, dtype: jnp.dtype) -> Array:
    """int[...] token ids to float[..., D]; ids outside 0..V-1 give row 0."""
    table = self.embed_tokens.embedding[...]
    inside = (ids >= 0) & (ids < table.shape[0])
    return table[jnp.where(inside, ids, 0)].astype(dtype)

  def __call__(
    self,
    x_BTD: Array,
    positions_BT: Array,
    attend: Attend,
    *,
    inputs: Any = None,
    adapter: bool = True,
    remat: str = "none",
    tail: int | None = None,
    frozen: bool = False,
  ) -> tuple[Array, Any]:
    """Runs the layers and the final norm.

    Args:
      x_BTD: float[B, T, D] embeddings.
      positions_BT: int[B, T] rotary positions.
      attend: how tokens see each other; see `Attend`.
      inputs: a tree of arrays with a leading layer axis, sliced for `attend`;
        after `unstack` a list with one entry per layer. Not with `tail`.
      adapter: whether LoRA takes part.
      remat: a name in REMAT.
      tail: how many of the last tokens' states are wanted; None: all. Of the
        other tokens the last layer makes keys and values only.
      frozen: no weight of the layers gets a gradient.

    Returns:
      float[B, T or tail, D] hidden states and the stacked outputs of `attend`.
    """
    if remat not in REMAT:
      raise UserError(f"remat: want one of {sorted(REMAT)}, got {remat!r}")
    rotary = rotary_table(self.config, positions_BT)
    if isinstance(self.layers, nnx.List):
      each = []
      for layer, layer_inputs in zip(self.layers, inputs, strict=True):
        x_BTD, output = layer(x_BTD, rotary, attend, layer_inputs, adapter)
        each.append(output)
      outputs = jax.tree.map(lambda *parts: jnp.stack(parts), *each)
      return self.norm(x_BTD), outputs

    policy, count = REMAT[remat], self.config.num_layers
    graph, adapters, stacked = nnx.split(self.layers, LoRA, ...)
    frozen = frozen or bool(jax.tree.leaves(adapters))
    # Adapters are used, and get their gradients, in the dtype of `x`.
    adapters = jax.tree.map(lambda leaf: leaf.astype(x_BTD.dtype), adapters)
    # Frozen weights are cut inside the layer, by its index. Cut outside, all
    # but the last layer's would be a copy of nearly the whole model.
    own = jnp.arange(count) if frozen else stacked
    every = (own, adapters, inputs)

    def run(x: Array, per_layer: tuple, tail: int | None = None) -> tuple:
      own, adapters, layer_inputs = per_layer
      weights = _at(stacked, own) if frozen else own
      return nnx.merge(graph, adapters, weights)(
        x, rotary, attend, layer_inputs, adapter, tail
      )

    last = functools.partial(run, tail=tail)
    if policy is not None:
      run = jax.checkpoint(run, policy=policy, prevent_cse=False)
      last = jax.checkpoint(last, policy=policy)  # it is in no loop
    if tail is None or not last_layer_is_short(count, frozen, remat):
      x_BTD, outputs = over_layers(run, x_BTD, every, policy is None)
      return self.norm(_last(x_BTD, tail)), outputs
    first = _at(every, slice(count - 1))
    x_BTD, outputs = over_layers(run, x_BTD, first, policy is None)
    x_BTD, output = last(x_BTD, _at(every, count - 1))
    add = lambda parts, one: jnp.concatenate([parts, one[None]])
    return self.norm(x_BTD), jax.tree.map(add, outputs, output)

  def unstack(self, rows: int) -> None:
    """Gives each layer arrays of its own, for many calls with so many rows.

    A scan cuts each layer's weights out of the stacked arrays whenever it
    runs. On CPUs that is a copy, which takes as long as the layer's product
    with a few rows: a loop over tokens makes it once, before it begins. For a
    few rows it stores kernels in the order that such products read them.
    """
    graph, stacked = nnx.split(self.layers)
    cut = lambda i: nnx.merge(graph, _at(stacked, i))
    self.layers = nnx.List([cut(i) for i in range(self.config.num_layers)])
    self.few_rows = rows <= _FEW_ROWS
    if self.few_rows:
      for _, module in nnx.iter_modules(self):
        if isinstance(module, Linear):
          module.transpose()

  def head(self) -> Callable[[Array], Array]:
    """What `logits` does, for a loop over many rows of a batch."""
    # here and not in each round of the loop
    kernel = gathered(self._head_kernel(), None, "tensor")
    return lambda hidden: float32_product(hidden, kernel)

  def logits(self, hidden: Array) -> Array:
    """float[..., D] to float32[..., V]."""
    if self.few_rows:
      head = (
        self.lm_head.kernel if self.lm_head else self.embed_tokens.embedding
      )
      return few_rows_product(hidden, head[...])
    return float32_product(hidden, self._head_kernel())

  def _head_kernel(self) -> Array:
    """float[D, V], in the order of large products."""
    if self.lm_head is None:
      return self.embed_tokens.embedding[...].T
    return self.lm_head.kernel[...]
