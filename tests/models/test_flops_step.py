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
from povid_jax.data import layout as layout_lib
from povid_jax.data.layout import Extent
from povid_jax.models import flops, params
from povid_jax.models.config import (
  DecoderConfig,
  LayoutConfig,
  LlavaConfig,
  LoraConfig,
  QwenVisionConfig,
  VisionConfig,
)
from povid_jax.models.work import Setup
from povid_jax.objectives.logps import Spec
from povid_jax.training import optim
from povid_jax.training.step import Frozen, State, StepFn

CONFIG = LlavaConfig(
  vision=VisionConfig(
    hidden_size=128,
    intermediate_size=256,
    num_layers=10,
    num_heads=2,
    image_size=112,
    patch_size=14,
  ),
  decoder=DecoderConfig(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=512,
    num_layers=10,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
  ),
)
# The compiler counts the body of a loop once, however often it runs; the last
# layer of the decoder is not in its loop.
COUNTED = LlavaConfig(
  dataclasses.replace(CONFIG.vision, num_layers=2),
  dataclasses.replace(CONFIG.decoder, num_layers=2),
)
# The tower's layers, with windows and without, are no loops: each runs once.
QWEN = LlavaConfig(
  QwenVisionConfig(
    hidden_size=128,
    intermediate_size=192,
    num_layers=2,
    num_heads=2,
    window_size=56,
    full_layers=(1,),
  ),
  dataclasses.replace(CONFIG.decoder, mrope_sections=(8, 12, 12)),
  layout=LayoutConfig("native"),
)
LORA = LoraConfig(rank=32, alpha=64.0)
B, P, C, CHUNK = 2, 128, 64, 1024
SQUARE = Extent(1, 64)


def compiled_flops(
  objective,
  reference,
  share_prefix,
  remat,
  config=CONFIG,
  room=SQUARE,
  also=lambda path: False,
  rows=B,
  lora=LORA,
):
  graph, shapes = params.abstract(config, lora, remat=remat)
  trains = lambda path: params.is_lora(path) or also(path)
  trained = {k: v for k, v in shapes.items() if trains(k)}
  frozen = {k: v for k, v in shapes.items() if not trains(k)}
  copied = {k: v for k, v in trained.items() if also(k)}
  transform, _ = optim.make(learning_rate=1e-3, total_steps=10, paths=trained)
  transform = optim.finite_guard(transform)
  spec = Spec(objective.needs, head_chunk=CHUNK, share_prefix=share_prefix)
  step = StepFn(graph, objective, spec, transform)
  struct = jax.ShapeDtypeStruct
  layout = layout_lib.of(config)
  row = batch_lib.describe(
    prefix=P,
    branch=C,
    branches=2,
    pictures=layout.describe(room),
    position_axes=layout.position_axes,
    noise="image" if objective.needs.noisy_picture else None,
    reference=objective.needs.fixed.terms if reference == "cached" else (),
  )
  batch = jax.tree.map(
    lambda x: struct((1, rows, *x.shape), x.dtype), row.for_model()
  )
  state = State(
    struct((), jnp.int32), trained, jax.eval_shape(transform.init, trained)
  )
  lowered = jax.jit(step).lower(state, Frozen(frozen, copied), batch)
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
  ours = our_flops(objective, reference, share_prefix=share_prefix, remat=remat)
  assert ours == pytest.approx(counted, rel=0.05)


def our_flops(
  objective, reference, *, share_prefix=True, remat="full", config=COUNTED,
  tiles=1, also=lambda path: False, rows=B, lora=LORA,
):  # fmt: skip
  step = flops.Step(
    batch=rows,
    prefix=P,
    branches=2,
    length=C,
    tiles=tiles,
    reference=reference,
    noise=objective.needs.noise,
    corrupted=objective.needs.corrupted,
    share_prefix=share_prefix,
  )
  trains = lambda path: params.is_lora(path) or also(path)
  model = Setup(config, lora, trains, remat=remat)
  work = flops.of(model, step)
  # one chunk is no loop: the compiler sees that its logits are there already
  return work["total"].hardware - work["head"].recompute


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "reference"), [("dpo", "online"), ("povid", "cached")]
)
def test_step_with_pictures_at_their_own_size(name, reference):
  objective = objectives.get(name)
  room = Extent(256, 64)  # whole blocks of a window
  counted = compiled_flops(objective, reference, True, "full", QWEN, room)
  decoder = dataclasses.replace(QWEN.decoder, num_layers=2)
  one = dataclasses.replace(QWEN, decoder=decoder)
  ours = our_flops(objective, reference, config=one, tiles=room.tiles)
  assert ours == pytest.approx(counted, rel=0.05)


# the tower is most of the step here, so that a pass of it shows
WIDE = {"hidden_size": 512, "intermediate_size": 2048}


def _wide(config):
  vision = dataclasses.replace(config.vision, **WIDE)
  return dataclasses.replace(config, vision=vision)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "reference", "part"),
  [
    ("dpo", "online", "vision/"),
    ("dpo", "cached", "vision/"),
    ("dpo", "online", "projector/"),
    ("dpo", "cached", "projector/"),
    ("povid", "online", "vision/"),
  ],
)
def test_a_trained_tower_sees_for_itself(name, reference, part):
  """The reference encodes its pictures then, and the policy its own."""
  objective = objectives.get(name)
  # The compiler counts the optimizer too, 35 FLOPs for each weight of the
  # tower: with more rows that is little.
  how = {"also": lambda path: path.startswith(part), "rows": 8}
  counted = compiled_flops(
    objective, reference, True, "full", _wide(CONFIG), **how
  )
  ours = our_flops(objective, reference, config=_wide(COUNTED), **how)
  assert ours == pytest.approx(counted, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("reference", "targets"),
  [
    ("cached", "q_proj|k_proj|v_proj|o_proj|out_proj|fc1|fc2|up_proj"),
    ("online", "vision/.*(fc1|fc2)|decoder/.*q_proj"),
    ("online", "projector/|decoder/.*q_proj"),
  ],
)
def test_adapters_on_tower_and_projector(reference, targets):
  """Kernels get no gradient, what they read does; the reference is without."""
  how = {"lora": LoraConfig(32, 64.0, targets), "rows": 8}
  objective = objectives.get("dpo")
  counted = compiled_flops(
    objective, reference, True, "full", _wide(CONFIG), **how
  )
  ours = our_flops(objective, reference, config=_wide(COUNTED), **how)
  assert ours == pytest.approx(counted, rel=0.05)
