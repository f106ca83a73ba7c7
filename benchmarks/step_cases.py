"""Training steps to be timed: ours by config, and the released one's work."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from povid_jax import build, sharding
from povid_jax import config as config_lib
from povid_jax.abstract import Shape, abstract_arguments
from povid_jax.models.config import LlavaConfig
from povid_jax.models.llava import IMAGE_TOKEN
from povid_jax.outline import Outline, outline
from povid_jax.planning import step_flops
from povid_jax.step import Frozen, State, StepFn

Struct = jax.ShapeDtypeStruct


@dataclasses.dataclass
class Case:
  """One step, compiled, with arrays to run on.

  Attributes:
    name: of its line in the tables.
    run: (state, frozen, batch) -> (state, metrics); takes the state's memory.
    bytes: of arguments and temporaries, as compiled.
    flops: required FLOPs of a step (no rematerialisation).
  """

  name: str
  run: Callable[..., tuple[State, dict]]
  state: State
  frozen: Frozen
  batch: dict[str, jax.Array]
  bytes: int
  flops: float
  seconds: list[float] = dataclasses.field(default_factory=list)

  @property
  def median(self) -> float:
    return statistics.median(self.seconds)

  def once(self) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    self.state, metrics = self.run(self.state, self.frozen, self.batch)
    loss = float(metrics["loss"])
    seconds = time.perf_counter() - start
    if loss != loss:
      raise FloatingPointError(f"{self.name}: loss is {loss}")
    return seconds


def measure(cases: list[Case], repeats: int) -> None:
  """Times the cases in turns, so that a busy moment hits them alike."""
  for case in cases:
    case.once()  # the first call moves arrays and warms caches
  for _ in range(repeats):
    for case in cases:
      case.seconds.append(case.once())


def step_of(
  described: LlavaConfig, fields: dict[str, Any]
) -> tuple[Any, Outline, StepFn]:
  """(config, outline, step) of a run with these config fields."""
  given = {"init": "random", "data.train": "random", **fields}
  config = config_lib.default()
  for name, value in given.items():
    config_lib.set_field(config, name, value)
  build.check(config)
  sketch = outline(config, described)
  step, _ = build.make_step(config, sketch, 1000)
  return config, sketch, step


def ours(
  name: str, described: LlavaConfig, shape: Shape, fields: dict[str, Any]
) -> Case:
  """The step that povid_jax.train runs with this config."""
  config, sketch, step = step_of(described, fields)
  work, _ = step_flops(config, described, sketch, step, shape)
  return _case(name, step, step, (config, described, sketch), shape, work.model)


def other(
  name: str,
  described: LlavaConfig,
  shape: Shape,
  fields: dict[str, Any],
  make: Callable[[StepFn], Callable],
  change_batch: Callable[[dict], dict],
) -> Case:
  """Another step function over the same state, weights and pairs."""
  config, sketch, step = step_of(described, fields)
  parts = (config, described, sketch)
  return _case(name, make(step), step, parts, shape, 0.0, change_batch)


def _case(
  name: str,
  function: Callable,
  step: StepFn,
  parts: tuple,
  shape: Shape,
  required: float,
  change_batch: Callable[[dict], dict] = lambda batch: batch,
) -> Case:
  config, described, sketch = parts
  mesh = sharding.make_mesh(
    {"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1]
  )
  structs = abstract_arguments(config, described, sketch, step, mesh, shape)
  state, frozen = _random_weights(step, *structs[:2], mesh)
  batch = change_batch(random_batch(structs[2], described))
  with jax.set_mesh(mesh):
    lowered = jax.jit(function, donate_argnums=0).lower(state, frozen, batch)
    compiled = lowered.compile()
  memory = compiled.memory_analysis()
  assert memory is not None  # CPU, GPU and TPU all have it
  size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  return Case(name, compiled, state, frozen, batch, size, required)


def _random_weights(
  step: StepFn, state: State, frozen: Frozen, mesh: Mesh
) -> tuple[State, Frozen]:
  def normal(path: tuple, leaf: Struct) -> jax.Array:
    key = jax.random.key(hash(jax.tree_util.keystr(path)) % 2**31)
    make = lambda key: (0.02 * jax.random.normal(key, leaf.shape)).astype(
      leaf.dtype
    )
    return jax.jit(make, out_shardings=leaf.sharding)(key)

  fill = lambda tree: jax.tree_util.tree_map_with_path(normal, tree)
  return build.init_state(step, fill(state.params), mesh), fill(frozen)


def random_batch(
  structs: dict[str, Struct], described: LlavaConfig
) -> dict[str, jax.Array]:
  """Pairs without padding: the image first, then random words."""
  key = jax.random.key(0)
  out = {}
  for name, leaf in structs.items():
    key, one = jax.random.split(key)
    if leaf.dtype == jnp.bool_:
      value = jnp.ones(leaf.shape, bool)
    elif leaf.dtype == jnp.float32:  # log-probs of a cached reference
      value = jnp.full(leaf.shape, -100.0)
    else:
      top = 256 if leaf.dtype == jnp.uint8 else described.decoder.vocab_size
      value = jax.random.randint(one, leaf.shape, 0, top).astype(leaf.dtype)
    out[name] = jax.device_put(value, leaf.sharding)
  width, images = out["prefix_ids"].shape[-1], out["images"].shape[2]
  is_image = jnp.arange(width) < images * described.image_tokens
  prefix = jnp.where(is_image, IMAGE_TOKEN, out["prefix_ids"])
  length = jnp.full_like(out["prefix_len"], width)
  return {**out, "prefix_ids": prefix, "prefix_len": length}
