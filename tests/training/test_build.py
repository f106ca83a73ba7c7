"""From a config to the parts of a run."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from povid_jax.errors import UserError
from povid_jax.models import params as params_lib
from povid_jax.training import build
from tests import small_world
from tests.small_world import make_mesh, run_config


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  return small_world.folders(tmp_path_factory.mktemp("build"), 10)


def test_lora(world):
  model = build.build_model(run_config(world), make_mesh(fsdp=4, tensor=2))
  assert all(params_lib.is_lora(path) for path in model.params)
  assert len(model.params) == 2 * 7 and not model.frozen.reference
  assert set(model.params) | set(model.frozen.params) == set(model.shapes)
  q = model.params["decoder/layers/self_attn/q_proj/lora_a"]
  assert q.dtype == np.float32 and q.sharding.spec == P(None, "fsdp", None)
  kernel = model.frozen.params["decoder/layers/mlp/up_proj/kernel"]
  assert kernel.sharding.spec == P(None, "fsdp", "tensor")
  other = build.build_model(run_config(world, seed=1), make_mesh(fsdp=8))
  name = "decoder/layers/self_attn/q_proj/lora_a"
  assert np.abs(np.asarray(other.params[name]) - np.asarray(q)).max() > 1e-3


def test_full_training_keeps_the_initial_weights(world):
  config = run_config(world, trainable="decoder", projector_lr=1e-3)
  model = build.build_model(config, make_mesh(fsdp=8))
  assert model.lora is None
  starts = {path.split("/")[0] for path in model.params}
  assert starts == {"decoder", "projector"}
  assert set(model.frozen.reference) == set(model.params)
  for path, array in model.params.items():
    kept = model.frozen.reference[path]
    np.testing.assert_array_equal(kept, array)
    # the step is given the trained one for good: they share no memory
    one, other = (x.addressable_shards[0].data for x in (kept, array))
    assert one.unsafe_buffer_pointer() != other.unsafe_buffer_pointer()
  sft = build.build_model(
    run_config(world, trainable="decoder", **{"objective.name": "sft"}),
    make_mesh(fsdp=8),
  )
  assert not sft.frozen.reference


def test_bfloat16_keeps_float32_masters(world):
  config = run_config(world, dtype="bfloat16", trainable="decoder/norm")
  model = build.build_model(config, make_mesh(fsdp=8))
  assert {k: str(v.dtype) for k, v in model.params.items()} == {
    "decoder/norm/scale": "float32"
  }
  assert {str(v.dtype) for v in model.frozen.params.values()} == {"bfloat16"}
  np.testing.assert_array_equal(
    model.params["decoder/norm/scale"],
    small_world.arrays()["decoder/norm/scale"],
  )


def test_optimizer_state_is_cut_like_the_parameters(world):
  mesh = make_mesh(fsdp=4, tensor=2)
  model = build.build_model(run_config(world), mesh)
  step, rates = build.make_step(run_config(world), model, 10)
  state = build.init_state(step, model.params, mesh)
  assert int(state.step) == 0 and set(rates) == {"default"}
  name = "decoder/layers/mlp/up_proj/lora_b"
  found = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
    if getattr(path[-1], "key", None) == name
  ]
  assert len(found) == 2  # two moments of Adam
  for leaf in found:
    assert leaf.sharding == model.params[name].sharding


def test_data_and_steps(world, tmp_path):
  mesh = make_mesh(fsdp=8)
  config = run_config(world, epochs=2.5)
  model = build.build_model(config, mesh)
  data = build.build_data(config, model.weights, tmp_path)
  assert data.plan.steps_per_epoch == 2 and len(data.plan) == 5
  data = build.build_data(run_config(world, steps=7), model.weights, tmp_path)
  assert len(data.plan) == 7
  loader = build.build_loader(config, data, model.weights, mesh, tmp_path)
  assert loader.local_rows == tuple(range(8))
  host = loader(data.plan[0])
  placed = build.place(host, config, mesh)
  assert placed._fields == host._fields
  pairs = zip(jax.tree.leaves(placed), jax.tree.leaves(host), strict=True)
  for array, want in pairs:
    assert array.shape == (1, *want.shape)
    assert array.sharding.spec == P(None, ("data", "fsdp"))
    np.testing.assert_array_equal(array[0], want)
  with pytest.raises(UserError, match="holds no val record|val"):
    build.build_data(
      run_config(world, **{"data.split": "val"}), model.weights, tmp_path
    )


def test_no_noise_is_loaded_where_none_is_asked_for(world, tmp_path):
  mesh = make_mesh(fsdp=8)
  for name, noisy, branches in (("dpo", 0, 2), ("sft", 0, 1), ("mdpo", 1, 2)):
    config = run_config(world, **{"objective.name": name})
    model = build.build_model(config, mesh)
    data = build.build_data(config, model.weights, tmp_path)
    load = build.build_loader(config, data, model.weights, mesh, tmp_path)
    batch = load(data.plan[0])
    assert (batch.images_noisy is not None) == bool(noisy)
    assert batch.branch_ids.shape[1] == branches
