"""The vision transformer: CLIP's, and by its flags SigLIP's."""

import jax
import jax.numpy as jnp
from flax import nnx

from povid_jax.models.attention import self_attention
from povid_jax.models.config import CLIP_MEAN, CLIP_STD, VisionConfig
from povid_jax.models.layers import (
  ACTIVATIONS,
  LayerNorm,
  Linear,
  over_last,
  over_layers,
)
from povid_jax.models.partition import by_batch

Array = jax.Array


def normalise(
  images: Array,
  mean: tuple[float, ...] = CLIP_MEAN,
  std: tuple[float, ...] = CLIP_STD,
) -> Array:
  """uint8[..., 3] pixels to a tower's normalised values, float32[..., 3]."""
  scaled = images.astype(jnp.float32) / 255.0
  mean_C, std_C = jnp.array(mean), jnp.array(std)
  return (scaled - over_last(mean_C, scaled)) / over_last(std_C, scaled)


class _Attention(nnx.Module):
  def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
    dim, stack = config.hidden_size, (config.num_layers,)
    make = lambda: Linear(dim, dim, rngs=rngs, bias=True, stack=stack)
    self.q_proj, self.k_proj = make(), make()
    self.v_proj, self.out_proj = make(), make()
    self.num_heads = config.num_heads

  def __call__(self, x_BTD: Array, adapter: bool) -> Array:
    split = lambda x: x.reshape(*x.shape[:-1], self.num_heads, -1)
    out = self_attention(
      split(self.q_proj(x_BTD, adapter)),
      split(self.k_proj(x_BTD, adapter)),
      split(self.v_proj(x_BTD, adapter)),
      causal=False,
    )
    return self.out_proj(out.reshape(x_BTD.shape), adapter)


class _Mlp(nnx.Module):
  def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
    dim, wide = config.hidden_size, config.intermediate_size
    stack = (config.num_layers,)
    self.fc1 = Linear(dim, wide, rngs=rngs, bias=True, stack=stack)
    self.fc2 = Linear(wide, dim, rngs=rngs, bias=True, stack=stack)
    self.activation = config.activation

  def __call__(self, x_BTD: Array, adapter: bool) -> Array:
    h = ACTIVATIONS[self.activation](self.fc1(x_BTD, adapter))
    return self.fc2(h, adapter)


class _Layer(nnx.Module):
  def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
    dim, eps, stack = (
      config.hidden_size,
      config.layer_norm_eps,
      (config.num_layers,),
    )
    self.layer_norm1 = LayerNorm(dim, eps, stack)
    self.self_attn = _Attention(config, rngs)
    self.layer_norm2 = LayerNorm(dim, eps, stack)
    self.mlp = _Mlp(config, rngs)

  def __call__(self, x_BTD: Array, adapter: bool) -> Array:
    x_BTD = x_BTD + self.self_attn(self.layer_norm1(x_BTD), adapter)
    return by_batch(x_BTD + self.mlp(self.layer_norm2(x_BTD), adapter))


class _Embeddings(nnx.Module):
  def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
    dim, patch = config.hidden_size, config.patch_size
    normal = lambda std, *shape: nnx.Param(
      std * jax.random.normal(rngs.params(), shape)
    )
    inputs = patch * patch * 3
    # the order of these lines is that of the random numbers
    self.class_embedding = normal(0.02, dim) if config.class_token else None
    self.patch_embedding = normal(inputs**-0.5, patch, patch, 3, dim)
    self.patch_bias = (
      nnx.Param(jnp.zeros((dim,))) if config.patch_bias else None
    )
    self.position_embedding = normal(0.02, config.num_tokens, dim)

  def __call__(self, pixels_BHWC: Array) -> Array:
    batch, height, width, _ = pixels_BHWC.shape
    kernel = self.patch_embedding[...].astype(pixels_BHWC.dtype)
    patch = kernel.shape[0]
    rows, columns = height // patch, width // patch
    # non-overlapping patches: the convolution is one matrix product
    x = pixels_BHWC[:, : rows * patch, : columns * patch]
    x = x.reshape(batch, rows, patch, columns, patch, 3)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
    x = x @ kernel.reshape(-1, kernel.shape[-1])
    if self.patch_bias is not None:
      x = x + over_last(self.patch_bias[...], x)
    if self.class_embedding is not None:
      first = jnp.broadcast_to(
        self.class_embedding[...].astype(x.dtype), (batch, 1, x.shape[-1])
      )
      x = jnp.concatenate([first, x], axis=1)
    return x + over_last(self.position_embedding[...], x)


class VisionTransformer(nnx.Module):
  """A ViT up to the feature layer; class token dropped.

  All layers and the last norm are held (so that a checkpoint can be written
  back whole); only the layers below `feature_layer` run.
  """

  def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
    self.embeddings = _Embeddings(config, rngs)
    self.pre_layernorm = (
      LayerNorm(config.hidden_size, config.layer_norm_eps)
      if config.pre_norm
      else None
    )
    self.layers = _Layer(config, rngs)
    self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
    self.config = config

  def hidden_states(
    self, pixels_BHWC: Array, num_layers: int, adapter: bool = True
  ) -> Array:
    """float[B, tokens, D] after `num_layers` layers."""
    x = self.embeddings(pixels_BHWC)
    if self.pre_layernorm is not None:
      x = self.pre_layernorm(x)
    graph, stacked = nnx.split(self.layers)
    used = jax.tree.map(lambda leaf: leaf[:num_layers], stacked)

    def body(x: Array, layer: nnx.State) -> tuple[Array, None]:
      return nnx.merge(graph, layer)(x, adapter), None

    return over_layers(body, x, used)[0]

  def __call__(self, pixels_BHWC: Array, adapter: bool = True) -> Array:
    """Normalised pixels float[B, H, W, 3] to features float[B, patches, D]."""
    x = self.hidden_states(pixels_BHWC, self.config.num_used_layers, adapter)
    return x[:, 1:] if self.config.class_token else x
