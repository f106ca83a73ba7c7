"""Parameters by flat path: build without arrays, load, split, put together."""

import functools
import math
import re
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from povid_jax.errors import UserError
from povid_jax.models import quantised
from povid_jax.models.config import LlavaConfig, LoraConfig
from povid_jax.models.layers import Linear
from povid_jax.models.llava import Llava

Params = dict[str, Any]  # "decoder/norm/scale" -> array or ShapeDtypeStruct


def build(
  config: LlavaConfig,
  lora: LoraConfig | None = None,
  *,
  seed: int = 0,
  dtype: jnp.dtype = jnp.float32,
  remat: str = "none",
  attention: str = "xla",
  storage: str = "bf16",
) -> Llava:
  """A model with random weights; adapters added where `lora.targets` match.

  `storage`: how kernels of layers are stored, see `quantised.kind_of`.

  Under `jax.eval_shape` nothing is allocated: see `abstract`.

  Raises:
    UserError: `lora.targets` matches no linear layer, or the head.
  """
  model = Llava(
    config, nnx.Rngs(seed), dtype=dtype, remat=remat, attention=attention
  )
  if lora is not None:
    _add_lora(model, lora, nnx.Rngs(seed + 1))
  # after the adapters, whose sizes are the kernels'
  for path, module in nnx.iter_modules(model):
    kernel = "/".join((*map(str, path), "kernel"))
    if isinstance(module, Linear) and quantised.takes(kernel, storage):
      module.quantise(storage)
  return model


def _add_lora(model: Llava, lora: LoraConfig, rngs: nnx.Rngs) -> None:
  matched = False
  for path, module in nnx.iter_modules(model):
    name = "/".join(map(str, path))
    if isinstance(module, Linear) and re.search(lora.targets, name):
      if module is model.decoder.lm_head:  # the loss reads its kernel alone
        raise UserError(
          f"lora.targets={lora.targets!r} matches the head, {name}, whose "
          "adapter would not be trained: every other linear layer is "
          "'layers/|projector/'. Fold an adapter that has one in by `convert "
          "from-torch --adapter`"
        )
      module.add_lora(lora.rank, lora.scale, rngs)
      matched = True
  if not matched:
    raise UserError(
      f"lora.targets={lora.targets!r} matches no linear layer; "
      "paths look like decoder/layers/self_attn/q_proj"
    )


def abstract(
  config: LlavaConfig, lora: LoraConfig | None = None, **options: Any
) -> tuple[nnx.GraphDef, Params]:
  """The graph and {path: ShapeDtypeStruct}, without allocating a weight."""
  model = nnx.eval_shape(lambda: build(config, lora, **options))
  graph, state = nnx.split(model)
  return graph, flatten(state)


def flatten(state: nnx.State | Llava) -> Params:
  """{'decoder/norm/scale': array, ...}, sorted by path."""
  if isinstance(state, nnx.Module):
    state = nnx.state(state)
  leaves = nnx.to_flat_state(state)
  flat = {"/".join(map(str, path)): leaf.get_value() for path, leaf in leaves}
  return dict(sorted(flat.items()))


def merge(graph: nnx.GraphDef, *parts: Params) -> Llava:
  """The model made of these arrays; together they must cover every path."""
  flat = {k: v for part in parts for k, v in part.items()}
  nested: dict[str, Any] = {}
  for path, array in flat.items():
    *folders, name = path.split("/")
    node = nested
    for folder in folders:
      node = node.setdefault(folder, {})
    node[name] = array
  return nnx.merge(graph, nnx.State(nested))


def check_shapes(spec: str, params: Params, shapes: Params) -> None:
  """Raises UserError unless the arrays are exactly those of the dimensions."""
  for path in sorted(set(params) ^ set(shapes)):
    where = "is missing" if path in shapes else "is not in this architecture"
    raise UserError(f"{spec}: parameter {path} {where}")
  for path, leaf in shapes.items():
    if params[path].shape != leaf.shape:
      raise UserError(
        f"{spec}: {path} has shape {params[path].shape}, want {leaf.shape}"
      )


class Network(NamedTuple):
  """A network and its arrays by path, apart, as jit takes them."""

  graph: nnx.GraphDef
  params: Params

  def merge(self) -> Llava:
    return merge(*self)


def network(
  spec: str,
  config: LlavaConfig,
  params: Params,
  lora: LoraConfig | None,
  dtype: str,
) -> Network:
  """The network of restored arrays, activations in `dtype`.

  Raises:
    UserError: the arrays do not fit the dimensions; the message names `spec`.
  """
  graph, shapes = abstract(config, lora, dtype=jnp.dtype(dtype))
  check_shapes(spec, params, shapes)
  return Network(graph, params)


def init_lora(shapes: Params, seed: int) -> Params:
  """New adapter weights for every lora_a / lora_b among the shapes.

  A ~ U(-1/sqrt(d_in), 1/sqrt(d_in)) and B = 0, as in PEFT, float32; each array
  depends on the seed and its path only.
  """
  base = jax.random.key(seed)
  arrays: Params = {}
  for path, leaf in shapes.items():
    if path.endswith("/lora_b"):
      arrays[path] = jnp.zeros(leaf.shape, jnp.float32)
    elif path.endswith("/lora_a"):
      key = jax.random.fold_in(base, zlib.crc32(path.encode()))
      bound = 1.0 / math.sqrt(leaf.shape[-2])
      arrays[path] = jax.random.uniform(
        key, leaf.shape, jnp.float32, -bound, bound
      )
  return arrays


def is_lora(path: str) -> bool:
  return path.endswith(("/lora_a", "/lora_b"))


def select(params: Params, pattern: str) -> tuple[Params, Params]:
  """(those whose path matches the regex, the rest)."""
  hit = {k: v for k, v in params.items() if re.search(pattern, k)}
  return hit, {k: v for k, v in params.items() if k not in hit}


def merge_lora(params: Params, scale: float) -> Params:
  """Folds adapters into their kernels: W + scale * A B, in float32.

  Returns:
    The parameters without any lora_a / lora_b, kernels in their own dtype.
  """
  out = {k: v for k, v in params.items() if not is_lora(k)}
  for path in params:
    if not path.endswith("/lora_a"):
      continue
    stem = path.removesuffix("/lora_a")
    out[f"{stem}/kernel"] = _fold(
      jnp.asarray(params[f"{stem}/kernel"]),
      jnp.asarray(params[path], jnp.float32),
      jnp.asarray(params[f"{stem}/lora_b"], jnp.float32),
      scale,
    )
  return out


@functools.partial(jax.jit, static_argnums=3)
def _fold(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float):
  """Merges one layer at a time: the float32 sum of all layers may not fit."""

  def one(layer: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    w, a, b = layer
    delta = scale * jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return (w.astype(jnp.float32) + delta).astype(w.dtype)

  if kernel.ndim == 2:
    return one((kernel, a, b))
  return jax.lax.map(one, (kernel, a, b))
