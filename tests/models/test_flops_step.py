"""The whole training step's FLOPs: our count against the compiler's.

This is also the proof that the image prefix of a pair runs once with gradient
and once under noise, and that the head never sees image positions: a step that
did more would be counted by the compiler and not by us.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from povid_jax import objectives
from povid_jax.data import batch as batch_lib
from povid_jax.data.layout import Extent, Square
from povid_jax.models import flops, params
from povid_jax.models.config import (
  DecoderConfig,
  LlavaConfig,
  LoraConfig,
  VisionConfig,
)
from povid_jax.objectives.logps import Spec
from povid_jax.training import optim
from povid_jax.training.step import Frozen, State, StepFn

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
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=512,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
  ),
)
# The compiler counts the body of a loop once, however often it runs.
ONE_LAYER = LlavaConfig(
  dataclasses.replace(CONFIG.vision, num_layers=2),
  dataclasses.replace(CONFIG.decoder, num_layers=1),
)
LORA = LoraConfig(rank=32, alpha=64.0)
B, P, C, CHUNK = 2, 128, 64, 512


def compiled_flops(objective, reference, share_prefix, remat):
  graph, shapes = params.abstract(CONFIG, LORA, remat=remat)
  trained = {k: v for k, v in shapes.items() if params.is_lora(k)}
  frozen = {k: v for k, v in shapes.items() if not params.is_lora(k)}
  transform, _ = optim.make(learning_rate=1e-3, total_steps=10, paths=trained)
  transform = optim.finite_guard(transform)
  spec = Spec(objective.needs, head_chunk=CHUNK, share_prefix=share_prefix)
  step = StepFn(graph, objective, spec, transform)
  struct = jax.ShapeDtypeStruct
  row = batch_lib.describe(
    prefix=P,
    branch=C,
    branches=2,
    pictures=Square(112, 64).describe(Extent(1, 64)),
    noise="image" if objective.needs.noisy_picture else None,
    reference=objective.needs.fixed.terms if reference == "cached" else (),
  )
  batch = jax.tree.map(
    lambda x: struct((1, B, *x.shape), x.dtype), row.for_model()
  )
  state = State(
    struct((), jnp.int32), trained, jax.eval_shape(transform.init, trained)
  )
  lowered = jax.jit(step).lower(state, Frozen(frozen, {}), batch)
  return lowered.compile().cost_analysis()["flops"]


slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  ("name", "reference", "share_prefix", "remat"),
  [
    ("povid", "cached", True, "full"),
    slow("povid", "online", True, "full"),
    slow("povid", "online", True, "none"),
    slow("povid", "online", False, "full"),
    slow("povid_shared", "cached", True, "full"),
    slow("povid_shared", "online", True, "full"),
    slow("dpo", "online", True, "full"),
    slow("mdpo", "online", True, "full"),
    slow("mdpo", "cached", True, "full"),
  ],
)
def test_step_is_what_we_count(name, reference, share_prefix, remat):
  objective = objectives.get(name)
  counted = compiled_flops(objective, reference, share_prefix, remat)
  step = flops.Step(
    batch=B,
    prefix=P,
    branches=2,
    length=C,
    reference=reference,
    noise=objective.needs.noise,
    corrupted=objective.needs.corrupted,
    share_prefix=share_prefix,
  )
  model = flops.Model(ONE_LAYER, LORA, remat=remat, chunk=CHUNK)
  work = flops.of(model, step)
  # one chunk is no loop: the compiler sees that its logits are there already
  ours = work["total"].hardware - work["head"].recompute
  assert ours == pytest.approx(counted, rel=0.05)
