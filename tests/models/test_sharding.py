"""The mesh, the table of rules, and one step cut over eight devices."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from povid_jax import objectives, train
from povid_jax.errors import UserError
from povid_jax.models import params, sharding
from povid_jax.models.config import LoraConfig
from povid_jax.models.presets import preset
from povid_jax.objectives.logps import Spec
from povid_jax.training import optim
from povid_jax.training.step import Frozen, State, StepFn
from tests import small_world

ROOT = Path(train.__file__).parents[1]
STEPS = 5
FIELDS = {"batch_size": 8, "steps": STEPS, "lr": 3e-3}
MESHES = {
  "data": {"mesh.data": 8, "mesh.fsdp": 1},
  "fsdp": {"mesh.fsdp": 8},
  "tensor": {"mesh.tensor": 2, "mesh.data": -1, "mesh.fsdp": 1},
  "mix": {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2},
}


def test_mesh():
  shape = lambda *sizes: dict(zip(sharding.AXES, sizes, strict=True))
  assert dict(sharding.make_mesh(shape(2, -1, 2)).shape) == shape(2, 2, 2)
  assert dict(sharding.make_mesh(shape(8, 1, 1)).shape) == shape(8, 1, 1)
  for bad in (
    (3, -1, 1), (-1, -1, 1), (0, 1, 8), (2, 2, 1), (-2, 4, 1), (16, 1, 1)
  ):  # fmt: skip
    with pytest.raises(UserError, match="mesh"):
      sharding.make_mesh(shape(*bad))


@dataclasses.dataclass
class Chip:
  """What JAX asks a device in order to arrange it."""

  id: int
  slice_index: int = 0
  coords: tuple[int, int, int] = (0, 0, 0)
  device_kind: str = "TPU v6 lite"
  platform: str = "tpu"
  core_on_chip: int = 0
  process_index: int = 0


def gpus(*per_host: int) -> list[Chip]:
  """GPUs of several hosts, not in the order of the hosts."""
  hosts = [h for h, count in enumerate(per_host) for _ in range(count)]
  every = [
    Chip(i, host, device_kind="H100", platform="gpu")
    for i, host in enumerate(hosts)
  ]
  return every[::2] + every[1::2]


@pytest.mark.parametrize(
  "sizes, per_host, between",
  [
    ((1, 16, 1), (8, 8), (1, 2, 1)),  # the default
    ((2, 8, 1), (8, 8), (2, 1, 1)),
    ((8, 2, 1), (8, 8), (2, 1, 1)),
    ((3, 4, 1), (3, 3, 3, 3), (1, 4, 1)),
    ((6, 2, 1), (3, 3, 3, 3), (2, 2, 1)),
    ((1, 2, 8), (4, 4, 4, 4), (1, 2, 2)),
  ],
)
def test_the_first_axes_go_from_host_to_host(sizes, per_host, between):
  """... and a host is a block of the mesh, whatever order JAX lists them in."""
  mesh = sharding.arranged(sizes, gpus(*per_host))
  assert mesh.shape == sizes
  assert sorted(chip.id for chip in mesh.flat) == list(range(mesh.size))
  inside = [a // b for a, b in zip(sizes, between, strict=True)]
  for start in np.ndindex(*between):
    block = tuple(
      slice(at * size, (at + 1) * size)
      for at, size in zip(start, inside, strict=True)
    )
    assert len({chip.slice_index for chip in mesh[block].flat}) == 1


def test_hosts_of_different_size_are_refused():
  with pytest.raises(UserError, match="same number of devices, they have 8, 4"):
    sharding.arranged((1, 12, 1), gpus(8, 4))


@pytest.mark.parametrize("sizes", [(16, 4, 1), (2, 32, 1), (1, 16, 4)])
def test_an_axis_may_be_a_part_of_a_side_of_the_torus(sizes):
  """8 x 8 chips of a v6e; 16 x 4 is no product of their sides."""
  sides = list(np.ndindex(8, 8))
  mesh = sharding.arranged(
    sizes, [Chip(i, coords=(x, y, 0)) for i, (x, y) in enumerate(sides)]
  )
  assert mesh.shape == sizes
  assert sorted(chip.id for chip in mesh.flat) == list(range(64))


TABLE = [
  ("decoder/embed_tokens/embedding", P("tensor", "fsdp")),
  ("decoder/lm_head/kernel", P("fsdp", "tensor")),
  ("decoder/layers/self_attn/q_proj/kernel", P(None, "fsdp", "tensor")),
  ("decoder/layers/self_attn/o_proj/kernel", P(None, "tensor", "fsdp")),
  ("decoder/layers/mlp/down_proj/lora_a", P(None, "tensor", "fsdp")),
  ("decoder/layers/mlp/up_proj/lora_b", P(None, "fsdp", "tensor")),
  ("vision/layers/self_attn/q_proj/bias", P(None, "tensor")),
  ("vision/layers/mlp/fc2/kernel", P(None, "tensor", "fsdp")),
  ("projector/linear_2/kernel", P("fsdp", "tensor")),
  ("decoder/norm/scale", P()),
]


def test_rules():
  mesh = sharding.make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
  _, shapes = params.abstract(preset("llava-1.5-7b"), LoraConfig())
  for path, spec in TABLE:
    assert sharding.spec_for(path, shapes[path].shape, mesh) == spec
  odd = sharding.spec_for("decoder/lm_head/kernel", (32, 401), mesh)
  assert odd == P("fsdp", None)  # 401 does not divide


def test_every_large_parameter_of_7b_is_cut():
  mesh = sharding.make_mesh({"data": 1, "fsdp": 8, "tensor": 1})
  _, shapes = params.abstract(preset("llava-1.5-7b"), LoraConfig())
  for path, leaf in shapes.items():
    if leaf.size > 5e6:
      assert "fsdp" in sharding.spec_for(path, leaf.shape, mesh), path


def test_heads_and_batch_must_divide():
  mesh = sharding.make_mesh({"data": 2, "fsdp": 1, "tensor": 4})
  with pytest.raises(UserError, match="tensor=4 does not divide .*kv_heads=2"):
    sharding.check(mesh, small_world.MODEL, 8)
  wide = dataclasses.replace(
    small_world.MODEL,
    decoder=dataclasses.replace(small_world.MODEL.decoder, num_kv_heads=4),
  )
  sharding.check(mesh, wide, 8)
  with pytest.raises(UserError, match="= 3 pairs do not divide over"):
    sharding.check(mesh, wide, 3)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  return small_world.folders(tmp_path_factory.mktemp("sharding"), 24)


def _config(world, **fields):
  return small_world.config(
    world / "model", world / "data", {**FIELDS, **fields}
  )


@pytest.fixture(scope="module")
def one_device(world, tmp_path_factory):
  """Losses of the run on a single device."""
  workdir = tmp_path_factory.mktemp("one")
  with small_world.one_device():
    train.train_and_evaluate(_config(world), workdir)
  return small_world.losses(workdir)


def _same(losses, want):
  assert len(losses) == len(want) == STEPS
  assert losses == pytest.approx(want, rel=1e-5)
  # the run learns: a curve that stands still would be equal anywhere
  assert min(abs(a - b) for a, b in zip(want, want[1:], strict=False)) > 1e-4


@pytest.mark.parametrize(
  "name",
  [
    "mix",
    *(pytest.param(n, marks=pytest.mark.slow) for n in MESHES if n != "mix"),
  ],
)
def test_eight_devices_make_the_same_losses(name, world, one_device, tmp_path):
  state = train.train_and_evaluate(_config(world, **MESHES[name]), tmp_path)
  _same(small_world.losses(tmp_path), one_device)
  cut = {path for path, x in state.params.items() if not x.is_fully_replicated}
  assert bool(cut) == (name != "data")
  moments = [
    x for x in jax.tree.leaves(state.opt_state) if not x.is_fully_replicated
  ]
  assert len(moments) == 2 * len(cut)


@pytest.mark.slow
@pytest.mark.parametrize(
  "family", ["test", "test-next", "test-onevision", "test-qwen"]
)
def test_gradients_of_every_part(family, tmp_path):
  """All is trained, tower and projector too: losses alone would not tell."""
  published = preset(family)
  config = dataclasses.replace(
    published,
    decoder=dataclasses.replace(
      published.decoder, vocab_size=small_world.MODEL.decoder.vocab_size
    ),
  )
  graph, _ = params.abstract(config)
  weights = jax.tree.map(jnp.asarray, small_world.arrays(config))
  before = {path: 0.99 * x for path, x in weights.items()}
  records = [small_world.record(i) for i in range(8)]
  batch = small_world.batch_of(tmp_path, records, config=config).for_model()
  objective = objectives.get("dpo")
  spec = Spec(objective.needs, head_chunk=64)
  step = StepFn(graph, objective, spec, optim.finite_guard(optax.sgd(1.0)))

  def gradients(weights, before, batch):
    state = State(jnp.int32(0), weights, step.optimizer.init(weights))
    count = jnp.float32(len(records))
    given = (state, Frozen({}, before), batch, count)
    return jax.jit(step._gradients)(*given)[0]

  want = gradients(weights, before, batch)
  mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
  place = sharding.sharding_for(mesh)
  put = lambda tree: {
    path: jax.device_put(x, place(path, x.shape)) for path, x in tree.items()
  }
  rows = jax.sharding.NamedSharding(mesh, P(*sharding.BATCH))
  with jax.set_mesh(mesh):
    got = gradients(put(weights), put(before), jax.device_put(batch, rows))
  parts = {path.split("/")[0] for path in want}
  assert parts >= {"decoder", "projector", "vision"}
  far = small_world.relative_difference(got, want)
  assert {path: x for path, x in far.items() if x > 1e-4} == {}


@pytest.mark.slow
def test_accumulation_over_devices(world, one_device, tmp_path):
  """Two microbatches of four pairs over four of the devices' rows."""
  fields = {"grad_accum": 2, "mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
  train.train_and_evaluate(_config(world, **fields), tmp_path)
  _same(small_world.losses(tmp_path), one_device)


def _free_port():
  with socket.socket() as held:
    held.bind(("127.0.0.1", 0))
    return held.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["online", "cached"])
def test_two_processes_of_four_devices(reference, world, one_device, tmp_path):
  fields = {"mesh.data": 2, "mesh.fsdp": 4, "reference": reference}
  fields |= {"checkpoint.every": 2}
  config = small_world.config_file(tmp_path / "c.py", _config(world, **fields))
  env = {
    **os.environ,
    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    "JAX_PLATFORMS": "cpu",
  }

  def run(*more):
    command = [
      sys.executable, "-m", "povid_jax.train", f"--config={config}",
      f"--workdir={tmp_path}/run", f"--coordinator=127.0.0.1:{_free_port()}",
      "--num-processes=2", *more,
    ]  # fmt: skip
    processes = [
      subprocess.Popen(
        [*command, f"--process-id={i}"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for i in range(2)
    ]
    out = [p.communicate(timeout=400) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], out
    return out

  run()
  _same(small_world.losses(tmp_path / "run"), one_device)
  # and one process goes on from what two have saved
  steps = sorted((tmp_path / "run/checkpoints").iterdir())
  assert [p.name for p in steps] == [str(STEPS)]
