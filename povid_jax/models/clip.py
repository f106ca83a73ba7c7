"""The CLIP vision transformer."""

import jax
import jax.numpy as jnp
from flax import nnx

from povid_jax.models.attention import self_attention
from povid_jax.models.config import VisionConfig
from povid_jax.models.layers import ACTIVATIONS, LayerNorm, Linear

Array = jax.Array

# CLIPImageProcessor's constants, for pixels scaled to 0..1
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def normalise(images: Array, dtype: jnp.dtype = jnp.float32) -> Array:
  """uint8[..., 3] pixels to CLIP's normalised values, float[..., 3]."""
  scaled = images.astype(jnp.float32) / 255.0
  return ((scaled - jnp.array(MEAN)) / jnp.array(STD)).astype(dtype)


class _Attention(nnx.Module):
  def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
    dim, stack = config.hidden_size, (config.num_layers,)
    make = lambda: Linear(dim, dim, rngs=rngs, bias=True, stack=stack)
    self.q_proj, self.k_proj = make(), make()
    self.v_proj, self.out_proj = make(), make()
    self.num_heads = config.num_heads

  def __call__(self, x_BTD: Array) -> Array:
    split = lambda x: x.reshape(*x.shape[:-1], self.num_heads, -1)
    out = self_attention(
      split(self.q_proj(x_BTD)),
      split(self.k_proj(x_BTD)),
      split(self.v_proj(x_BTD)),
      causal=False,
    )
    return self.out_proj(out.reshape(x_BTD.shape))


class _Mlp(nnx.Module):
  def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
    dim, wide = config.hidden_size, config.intermediate_size
    stack = (config.num_layers,)
    self.fc1 = Linear(dim, wide, rngs=rngs, bias=True, stack=stack)
    self.fc2 = Linear(wide, dim, rngs=rngs, bias=True, stack=stack)
    self.activation = config.activation

  def __call__(self, x_BTD: Array) -> Array:
    return self.fc2(ACTIVATIONS[self.activation](self.fc1(x_BTD)))


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

  def __call__(self, x_BTD: Array) -> Array:
    x_BTD = x_BTD + self.self_attn(self.layer_norm1(x_BTD))
    return x_BTD + self.mlp(self.layer_norm2(x_BTD))


class _Embeddings(nnx.Module):
  def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
    dim, patch = config.hidden_size, config.patch_size
    normal = lambda std, *shape: nnx.Param(
      std * jax.random.normal(rngs.params(), shape)
    )
    inputs = patch * patch * 3
    self.class_embedding = normal(0.02, dim)
    self.patch_embedding = normal(inputs**-0.5, patch, patch, 3, dim)
    self.position_embedding = normal(0.02, config.num_patches + 1, dim)

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
    first = jnp.broadcast_to(
      self.class_embedding[...].astype(x.dtype), (batch, 1, x.shape[-1])
    )
    x = jnp.concatenate([first, x], axis=1)
    return x + self.position_embedding[...].astype(x.dtype)


class ClipVision(nnx.Module):
  """CLIP ViT up to the feature layer; class token dropped.

  All layers and the last norm are held (so that a checkpoint can be written
  back whole); only the layers below `feature_layer` run.
  """

  def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
    self.embeddings = _Embeddings(config, rngs)
    self.pre_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
    self.layers = _Layer(config, rngs)
    self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
    self.num_used_layers = config.num_used_layers

  def hidden_states(self, pixels_BHWC: Array, num_layers: int) -> Array:
    """float[B, 1 + patches, D] after `num_layers` layers."""
    x = self.pre_layernorm(self.embeddings(pixels_BHWC))
    graph, stacked = nnx.split(self.layers)
    used = jax.tree.map(lambda leaf: leaf[:num_layers], stacked)

    def body(x: Array, layer: nnx.State) -> tuple[Array, None]:
      return nnx.merge(graph, layer)(x), None

    return jax.lax.scan(body, x, used)[0]

  def __call__(self, pixels_BHWC: Array) -> Array:
    """Normalised pixels float[B, H, W, 3] to features float[B, patches, D]."""
    return self.hidden_states(pixels_BHWC, self.num_used_layers)[:, 1:]
