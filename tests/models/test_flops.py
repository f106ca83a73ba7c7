"""FLOPs: hand counts of tiny shapes, and the compiler's own count."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from povid_jax.models import decoder_costs, flops, params
from povid_jax.models.config import (
  DecoderConfig,
  LlavaConfig,
  LoraConfig,
  VisionConfig,
)
from povid_jax.models.decoder_costs import Pass
from povid_jax.models.scoring import token_logps
from povid_jax.models.work import Setup, Work

CONFIG = LlavaConfig(
  vision=VisionConfig(
    hidden_size=128,
    intermediate_size=256,
    num_layers=4,
    num_heads=2,
    image_size=112,
    patch_size=14,
  ),
  decoder=DecoderConfig(
    vocab_size=512,
    hidden_size=256,
    intermediate_size=512,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
  ),
)
LORA = LoraConfig(rank=32, alpha=64.0)


def test_by_hand():
  """Dimensions small enough to multiply in the head."""
  config = LlavaConfig(
    vision=VisionConfig(2, 3, 2, 1, image_size=2, patch_size=1),
    decoder=DecoderConfig(7, 4, 5, 3, 2, 1, 2),
  )
  model = Setup(config, LoraConfig(rank=2, alpha=2.0))
  # 4 patches of 3 values to 2; one layer: 5 tokens, 4*2*2 + 2*2*3 weights,
  # and 5 x 5 attention of width 2, twice
  assert flops.vision(model, 1).forward == 2 * 4 * 3 * 2 + (
    2 * 5 * (16 + 12) + 4 * 25 * 2
  )
  assert flops.projector(model, 1).forward == 2 * 4 * (2 * 4 + 4 * 4)
  # 2 rows of 3 + 2 * 4 tokens; (q, k) pairs 3*3 + 2 * 4 * (3 + 4)
  run = Pass(2, 3, 2, 4, gradient=True)
  assert (run.tokens, run.scored) == (22, 16)
  assert run.attended(last=False, masked=True) == 2 * 65
  assert run.attended(last=True, masked=True) == 2 * 56
  assert run.attended(last=True, masked=False) == 2 * 2 * (4 * 3 + 10)
  weights = 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 3 * 4 * 5
  low_rank = 2 * (8 + 6 + 6 + 8 + 3 * 9)
  # the last of three layers has keys and values of all 22 tokens, and of 16
  # the rest
  tokens = lambda all_of, of_some: (
    2 * (2 * 22 * all_of + 22 * of_some) + (2 * 16 * (all_of - of_some))
  )
  work = decoder_costs.decoder(model, run)
  linear = tokens(weights, 2 * 4 * 2)
  adapter = tokens(low_rank, 2 * 2 * 6)
  attention = 2 * 2 * (2 * 130 + 112) * 4
  assert work.forward == linear + adapter + attention
  assert work.backward == linear + 2 * adapter + 2 * attention
  assert work.recompute == 0
  assert decoder_costs.head(model, run) == Work(
    *[2 * 16 * 4 * 7] * 3,
  )


def test_passes_of_a_stage():
  step = flops.Step(8, 640, 2, 128, reference="online", noise="own")
  kinds = lambda step: [
    (run.branches, run.adapter, run.gradient) for run in step.passes()
  ]
  pair, reference = (2, True, True), (2, False, False)
  noisy, reference_noisy = (1, True, False), (1, False, False)
  assert kinds(step) == [pair, reference, noisy, reference_noisy]
  change = lambda **more: kinds(dataclasses.replace(step, **more))
  assert change(reference="cached") == [pair, noisy]
  assert change(noise="policy") == [pair, reference, noisy]
  assert change(noise="policy", reference="cached") == [
    pair,
    noisy,
    reference_noisy,
  ]
  assert change(noise=None, corrupted=True) == [
    pair,
    reference,
    (1, True, True),
    reference_noisy,
  ]
  assert change(noise=None, reference="none") == [pair]


def test_sharing_saves_the_prefix():
  step = flops.Step(4, 640, 2, 110)
  model = Setup(CONFIG, LORA)
  plain = flops.of(model, dataclasses.replace(step, share_prefix=False))
  shared = flops.of(model, step)
  assert plain["vision"] == shared["vision"]
  assert plain["head"] == shared["head"]
  tokens = lambda step: sum(run.tokens for run in step.passes())
  assert tokens(step) == 4 * 860
  assert tokens(dataclasses.replace(step, share_prefix=False)) == 4 * 1500


@pytest.mark.parametrize(
  ("remat", "train"),
  [
    ("none", "lora"),
    ("full", "lora"),
    pytest.param("attention", "lora", marks=pytest.mark.slow),
    pytest.param("dots", "lora", marks=pytest.mark.slow),
    ("full", "all"),
  ],
)
def test_close_to_the_compiler(remat, train):
  lora = LORA if train == "lora" else None
  # as many layers as run in a loop
  many = LlavaConfig(
    dataclasses.replace(CONFIG.vision, num_layers=10),
    dataclasses.replace(CONFIG.decoder, num_layers=10),
  )
  graph, shapes = params.abstract(many, lora, remat=remat)
  trains = (
    params.is_lora
    if train == "lora"
    else lambda path: path.startswith("decoder/")
  )
  batch, prefix, branches, length = 2, 128, 2, 64
  struct = jax.ShapeDtypeStruct

  def loss(trained, frozen, images, prefix_ids, prefix_len, branch_ids):
    model = params.merge(graph, trained, frozen)
    embeds = model.encode_images(images)
    hidden = model.branches(prefix_ids, prefix_len, branch_ids, embeds)
    # one chunk, since the compiler counts the body of a loop once
    return token_logps(
      model.decoder.head(), hidden, branch_ids[..., None], chunk=10**6
    ).sum()

  compiled = (
    jax.jit(jax.value_and_grad(loss))
    .lower(
      {k: v for k, v in shapes.items() if trains(k)},
      {k: v for k, v in shapes.items() if not trains(k)},
      struct((batch, 1, 112, 112, 3), jnp.uint8),
      struct((batch, prefix), jnp.int32),
      struct((batch,), jnp.int32),
      struct((batch, branches, length), jnp.int32),
    )
    .compile()
  )
  # The compiler counts the body of a loop once, however often it runs. With
  # adapters the last layer is no part of the loop.
  one_layer = LlavaConfig(
    dataclasses.replace(CONFIG.vision, num_layers=2),
    dataclasses.replace(CONFIG.decoder, num_layers=2 if lora else 1),
  )
  model = Setup(one_layer, lora, trains, remat)
  work = flops.of(model, flops.Step(batch, prefix, branches, length))["total"]
  counted = compiled.cost_analysis()["flops"]
  assert work.hardware == pytest.approx(counted, rel=0.03)
