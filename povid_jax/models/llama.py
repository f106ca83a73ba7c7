"""The Llama-family decoder: one stacked layer, scanned."""

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
  RMSNorm,
  few_rows_product,
  float32_product,
  over_layers,
)
from povid_jax.models.partition import by_batch
from povid_jax.models.rope import rotary_table, rotate

Array = jax.Array
# (queries, keys, values, this layer's slice of `inputs`)
#   -> (attention output, what to stack over layers)
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
  ) -> tuple[Array, Any]:
    split = lambda x: x.reshape(*x.shape[:-1], -1, self.head_dim)
    q = rotate(split(self.q_proj(x_BTD, adapter)), *rotary)
    k = rotate(split(self.k_proj(x_BTD, adapter)), *rotary)
    v = split(self.v_proj(x_BTD, adapter))
    out, outputs = attend(q, k, v, inputs)
    out = checkpoint_name(out.reshape(*x_BTD.shape[:-1], -1), "attention")
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
  ) -> tuple[Array, Any]:
    h, outputs = self.self_attn(
      self.input_layernorm(x_BTD), rotary, attend, inputs, adapter
    )
    x_BTD = by_batch(x_BTD + h)
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
  ) -> tuple[Array, Any]:
    """Runs the layers and the final norm.

    Args:
      x_BTD: float[B, T, D] embeddings.
      positions_BT: int[B, T] rotary positions.
      attend: how tokens see each other; see `Attend`.
      inputs: a tree of arrays with a leading layer axis, sliced for `attend`;
        after `unstack` a list with one entry per layer.
      adapter: whether LoRA takes part.
      remat: a name in REMAT.

    Returns:
      float[B, T, D] hidden states and the stacked outputs of `attend`.
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
    graph, stacked = nnx.split(self.layers)

    def body(x: Array, per_layer: tuple) -> tuple[Array, Any]:
      layer, layer_inputs = per_layer
      return nnx.merge(graph, layer)(x, rotary, attend, layer_inputs, adapter)

    keeps_all = REMAT[remat] is None
    if not keeps_all:
      body = jax.checkpoint(body, policy=REMAT[remat], prevent_cse=False)
    x_BTD, outputs = over_layers(body, x_BTD, (stacked, inputs), keeps_all)
    return self.norm(x_BTD), outputs

  def unstack(self, rows: int) -> None:
    """Gives each layer arrays of its own, for many calls with so many rows.

    A scan cuts each layer's weights out of the stacked arrays whenever it
    runs. On CPUs that is a copy, which takes as long as the layer's product
    with a few rows: a loop over tokens makes it once, before it begins. For a
    few rows it stores kernels in the order that such products read them.
    """
    graph, stacked = nnx.split(self.layers)
    cut = lambda i: nnx.merge(graph, jax.tree.map(lambda x: x[i], stacked))
    self.layers = nnx.List([cut(i) for i in range(self.config.num_layers)])
    self.few_rows = rows <= _FEW_ROWS
    if self.few_rows:
      for _, module in nnx.iter_modules(self):
        if isinstance(module, Linear):
          module.transpose()

  def logits(self, hidden: Array) -> Array:
    """float[..., D] to float32[..., V]."""
    if self.few_rows:
      head = (
        self.lm_head.kernel if self.lm_head else self.embed_tokens.embedding
      )
      return few_rows_product(hidden, head[...])
    if self.lm_head is None:
      kernel = self.embed_tokens.embedding[...].T
    else:
      kernel = self.lm_head.kernel[...]
    return float32_product(hidden, kernel)
