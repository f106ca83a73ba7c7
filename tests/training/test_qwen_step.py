"""A step of Qwen2.5-VL: shared prefixes, and a batch over eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from povid_jax import objectives
from povid_jax.data import layout as layout_lib
from povid_jax.data.batch import Batch
from povid_jax.models import params as params_lib
from povid_jax.models import sharding
from povid_jax.models.config import LoraConfig
from povid_jax.objectives.logps import Spec
from povid_jax.training import optim
from povid_jax.training.step import Frozen, State, StepFn
from tests import qwen_world, small_world
from tests.qwen_world import CONFIG, MIXED

# on the decoder, the tower and the merger
LORA = LoraConfig(
  rank=2, alpha=4.0, targets=r"_proj$|qkv$|attn/proj$|linear_1$"
)


@pytest.fixture(scope="module")
def world():
  """(graph, parameters, batch of eight pairs with 0 to 2 pictures)."""
  graph, shapes = params_lib.abstract(CONFIG, LORA)
  rng = np.random.default_rng(1)
  params = small_world.arrays(CONFIG)
  for path, leaf in shapes.items():
    if params_lib.is_lora(path):
      params[path] = rng.normal(0, 0.2, leaf.shape).astype(np.float32)
  pictures = MIXED + MIXED[::-1]
  layout = layout_lib.of(CONFIG)
  prompts = [
    qwen_world.prompt(layout, some, i) for i, some in enumerate(pictures)
  ]
  shape = (len(prompts), 2, 8)
  lengths = rng.integers(2, 9, shape[:2])
  batch = Batch(
    branch_ids=rng.integers(3, 80, shape, np.int32),
    loss_mask=np.arange(8) < lengths[..., None],
    **qwen_world.batch(prompts, pictures),
  )
  return graph, jax.tree.map(jnp.asarray, params), batch


def _step(graph, **options):
  objective = objectives.get("dpo")
  spec = Spec(objective.needs, head_chunk=64, **options)
  return StepFn(graph, objective, spec, optim.finite_guard(optax.sgd(1.0)))


def _gradients(step, params, batch):
  """Of every parameter: tower, merger, decoder and adapters."""
  before = {k: v for k, v in params.items() if not params_lib.is_lora(k)}
  total = jnp.float32(len(batch.prefix_len))
  state = State(jnp.int32(0), params, step.optimizer.init(params))
  return jax.jit(step._gradients)(state, Frozen({}, before), batch, total)


@pytest.mark.slow
def test_sharing_changes_no_number(world):
  """The loss and every leaf of its gradient."""
  graph, params, batch = world
  half = jax.tree.map(lambda x: x[:4], batch)
  ours, metrics = _gradients(_step(graph), params, half)
  plain, others = _gradients(_step(graph, share_prefix=False), params, half)
  assert float(metrics["loss"]) == pytest.approx(
    float(others["loss"]), rel=1e-5
  )
  assert ours.keys() == params.keys()
  far = small_world.relative_difference(ours, plain)
  assert {k: v for k, v in far.items() if v > 1e-4} == {}
  moved = {k for k, g in plain.items() if float(jnp.abs(g).max())}
  # all but what a softmax does not see
  assert {path.split("/")[0] for path in moved} == {
    "vision",
    "projector",
    "decoder",
  }
  assert len(moved) > 0.9 * len(params)


@pytest.mark.slow
def test_eight_devices_are_one(world):
  graph, params, batch = world
  step = _step(graph)
  trained = {k: v for k, v in params.items() if params_lib.is_lora(k)}
  frozen = {k: v for k, v in params.items() if k not in trained}
  state = State(jnp.int32(0), trained, step.optimizer.init(trained))
  cut = jax.tree.map(lambda x: x[None], batch)
  jitted = jax.jit(step)
  alone, metrics = jitted(state, Frozen(frozen, {}), cut)
  mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
  place = sharding.sharding_for(mesh)
  put = lambda tree: {
    k: jax.device_put(v, place(k, v.shape)) for k, v in tree.items()
  }
  rows = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(None, *sharding.BATCH)
  )
  trained = put(trained)
  state = State(jnp.int32(0), trained, step.optimizer.init(trained))
  with jax.set_mesh(mesh):
    many, others = jax.jit(step)(
      state, Frozen(put(frozen), {}), jax.device_put(cut, rows)
    )
  assert float(others["loss"]) == pytest.approx(
    float(metrics["loss"]), rel=1e-5
  )
  far = small_world.relative_difference(many.params, alone.params)
  assert max(far.values()) < 1e-4
