"""An attention backend against `xla`, on the hardware at hand.

A small model with ragged prefixes and padded answers: the log-probs and every
gradient of the adapters, in bfloat16 with either backend, are measured against
`xla` in float32. A backend passes when it is no further from that than `xla`
in bfloat16 is, give or take half.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from povid_jax.data.batch import Batch
from povid_jax.models import params as params_lib
from povid_jax.models.config import (
  DecoderConfig,
  LlavaConfig,
  LoraConfig,
  VisionConfig,
)
from povid_jax.models.llava import IMAGE_TOKEN
from povid_jax.objectives import Needs, logps

DECODER = DecoderConfig(
  vocab_size=512,
  hidden_size=512,
  intermediate_size=1024,
  num_layers=3,
  num_heads=8,
  num_kv_heads=8,
  head_dim=64,
)
VARIANTS = {
  "head_dim 128": dataclasses.replace(
    DECODER, num_heads=4, num_kv_heads=4, head_dim=128
  ),
  "grouped heads, sliding window": dataclasses.replace(
    DECODER, num_kv_heads=2, sliding_window=40
  ),
}


def check(backend: str) -> dict[str, dict[str, Any]]:
  """By variant: distances of loss and gradients, and whether they pass."""
  found = {}
  for name, config in VARIANTS.items():
    try:
      found[name] = _one(backend, config)
    except Exception as error:  # a finding, not the end of what it is part of
      found[name] = {"passes": False, "error": f"{error!r:.300}"}
  return found


def _one(backend: str, decoder: DecoderConfig) -> dict[str, Any]:
  vision = VisionConfig(
    image_size=56,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=2,
  )
  config = LlavaConfig(vision=vision, decoder=decoder)
  lora = LoraConfig(8, 16.0, r"decoder/layers/.*_proj$")
  arrays = params_lib.flatten(params_lib.build(config, lora, seed=0))
  for index, path in enumerate(sorted(arrays)):
    if path.endswith("/lora_b"):  # zeros have no gradient to give to A
      key = jax.random.key(index)
      arrays[path] = 0.05 * jax.random.normal(key, arrays[path].shape)
  batch = _batch(config)

  def gradients(attention: str, dtype: Any) -> tuple[jax.Array, dict]:
    graph, _ = params_lib.abstract(
      config, lora, dtype=dtype, attention=attention
    )
    trained, frozen = params_lib.select(arrays, r"/lora_[ab]$")

    def loss(trained: dict) -> jax.Array:
      model = params_lib.merge(graph, frozen, trained)
      spec = logps.Spec(Needs(rejected=True))
      pictures = logps.encode(model, batch, spec, adapter=True)
      found = logps.per_pair(
        logps.score(model, batch, pictures, spec, adapter=True), batch
      )
      assert found.rejected is not None
      return (0.3 * found.rejected - found.chosen).mean() / 10

    return jax.jit(jax.value_and_grad(loss))(trained)

  with jax.default_matmul_precision("highest"):
    true = gradients("xla", jnp.float32)
  ours, plain = gradients(backend, jnp.bfloat16), gradients("xla", jnp.bfloat16)
  distance = lambda found: {
    "loss": abs(float(found[0] - true[0])) / abs(float(true[0])),
    "gradients": max(
      float(jnp.linalg.norm(found[1][path] - leaf) / jnp.linalg.norm(leaf))
      for path, leaf in true[1].items()
    ),
  }
  far, allowed = distance(ours), distance(plain)
  return {
    backend: far,
    "xla": allowed,
    "passes": all(far[k] <= 1.5 * allowed[k] + 2e-3 for k in far),
  }


def _batch(config: LlavaConfig) -> Batch:
  """Three pairs with P = 96 and C = 32, of different lengths."""
  keys = jax.random.split(jax.random.key(1), 3)
  shape, branches = (3, 96), (3, 2, 32)
  length = jnp.array([96, 71, 20])
  prefix = jax.random.randint(keys[0], shape, 0, config.decoder.vocab_size)
  is_image = jnp.arange(96) < config.image_tokens
  answers = jnp.array([[32, 20], [9, 32], [15, 1]])
  return Batch(
    prefix_ids=jnp.where(is_image, IMAGE_TOKEN, prefix),
    prefix_len=length,
    branch_ids=jax.random.randint(
      keys[1], branches, 0, config.decoder.vocab_size
    ),
    loss_mask=jnp.arange(32) < answers[..., None],
    images=jax.random.randint(keys[2], (3, 1, 56, 56, 3), 0, 256, jnp.uint8),
  )
