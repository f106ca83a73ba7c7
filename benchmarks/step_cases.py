"""Training steps to be timed: ours by config, and the released one's work."""

import dataclasses
import functools
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.stages import Compiled

from povid_jax import config as config_lib
from povid_jax.data.batch import Batch
from povid_jax.models import sharding
from povid_jax.models.config import LlavaConfig
from povid_jax.models.llava import IMAGE_TOKEN
from povid_jax.plan.abstract import Shape, abstract_arguments
from povid_jax.training import build
from povid_jax.training.accounting import step_flops
from povid_jax.training.outline import Outline, outline
from povid_jax.training.step import Frozen, State, StepFn

Struct = jax.ShapeDtypeStruct


@dataclasses.dataclass
class Case:
  """One step, compiled, with arrays to run on.

  Attributes:
    name: of its line in the tables.
    run: (state, frozen, batch) -> (state, metrics); takes the state's memory.
    step: what it was compiled from.
    structs: shapes and shardings of state, frozen and batch.
    bytes: of arguments and temporaries, as compiled.
    flops: required FLOPs of a step (no rematerialisation).
  """

  name: str
  run: Any
  step: StepFn
  structs: tuple
  bytes: int
  flops: float
  state: State = dataclasses.field(init=False)
  frozen: Frozen = dataclasses.field(init=False)
  batch: Batch | None = None
  seconds: list[float] = dataclasses.field(default_factory=list)

  @property
  def median(self) -> float:
    return statistics.median(self.seconds)

  @property
  def rate(self) -> float:
    """Required FLOP/s."""
    return self.flops / self.median

  def forget(self) -> None:
    """Lets go of the arrays: other cases run on them."""
    self.batch = None
    del self.state, self.frozen

  def once(self) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    self.state, metrics = self.run(self.state, self.frozen, self.batch)
    loss = float(metrics["loss"])
    seconds = time.perf_counter() - start
    if loss != loss:
      raise FloatingPointError(f"{self.name}: loss is {loss}")
    return seconds


def progress_line(text: str) -> None:
  """Prints to stderr: the tables alone go to stdout."""
  print(text, file=sys.stderr, flush=True)


def measure(cases: list[Case], repeats: int) -> None:
  """Times the cases in turns, so that a busy moment hits them alike.

  In each turn a step is run twice and its second run counts: in training a
  step follows one of its own kind and finds its memory where it left it.
  Prints a line for each step that counts.
  """
  for turn in range(1, repeats + 1):
    for case in cases:
      case.once()
      case.seconds.append(case.once())
      seconds = f"{case.seconds[-1]:.2f} s"
      progress_line(f"turn {turn}/{repeats}: {case.name}: {seconds}")


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
  work = step_flops(
    config, described, sketch, step, **lengths_of(shape, described, step)
  ).total
  return _case(name, step, step, (config, described, sketch), shape, work.model)


def lengths_of(
  shape: Shape, described: LlavaConfig, step: StepFn
) -> dict[str, Any]:
  """What `step_flops` wants to know of a batch."""
  return {
    "prefix": shape.prefix,
    "branch": shape.branch,
    "branches": shape.branches(step.spec.needs),
    "tiles": shape.room(described).tiles,
  }


def other(
  name: str,
  described: LlavaConfig,
  shape: Shape,
  fields: dict[str, Any],
  make: Callable[[StepFn], Callable],
  change_batch: Callable[[Batch], Batch],
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
  change_batch: Callable[[Batch], Batch] = lambda batch: batch,
) -> Case:
  config, described, sketch = parts
  progress_line(f"compiling: {name}")
  mesh = single_mesh()
  structs = abstract_arguments(config, described, sketch, step, mesh, shape)
  params, frozen = random_arrays((structs[0].params, structs[1]))
  state = build.init_state(step, params, mesh)
  batch = change_batch(random_batch(structs[2], described))
  with jax.set_mesh(mesh):
    lowered = jax.jit(function, donate_argnums=0).lower(state, frozen, batch)
    compiled = lowered.compile()
  size = compiled_bytes(compiled)
  case = Case(name, compiled, step, structs, size, required)
  case.state, case.frozen, case.batch = state, frozen, batch
  return case


def compiled_bytes(compiled: Compiled) -> int:
  """Bytes of arguments and temporaries."""
  memory = compiled.memory_analysis()
  assert memory is not None  # CPU, GPU and TPU all have it
  return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def single_mesh() -> Mesh:
  """The first device alone."""
  one = {"data": 1, "fsdp": 1, "tensor": 1}
  return sharding.make_mesh(one, jax.devices()[:1])


def random_arrays(tree: Any) -> Any:
  """Small random numbers of these shapes, dtypes and shardings."""

  def normal(path: tuple, leaf: Struct) -> jax.Array:
    name = jax.tree_util.keystr(path)
    key = jax.random.key(zlib.crc32(name.encode()))
    size = 0.02
    if leaf.dtype.itemsize == 1:
      size = 40  # codes, whose scale follows
    elif "kernel_scale" in name:
      size = 0.02 / 40
    return _normal(leaf.shape, leaf.dtype, leaf.sharding, size)(key)

  return jax.tree_util.tree_map_with_path(normal, tree)


# a model has hundreds of arrays and few shapes: each is compiled once
@functools.cache
def _normal(
  shape: tuple[int, ...], dtype: Any, placed: Any, size: float
) -> Callable:
  make = lambda key: (size * jax.random.normal(key, shape)).astype(dtype)
  return jax.jit(make, out_shardings=placed)


def random_batch(structs: Batch, described: LlavaConfig) -> Batch:
  """Pairs without padding: the image first, then random words."""
  key = jax.random.key(0)
  leaves, tree = jax.tree.flatten(structs)
  found = []
  for leaf in leaves:
    key, one = jax.random.split(key)
    if leaf.dtype == jnp.bool_:
      value = jnp.ones(leaf.shape, bool)
    elif leaf.dtype == jnp.float32:  # log-probs of a cached reference
      value = jnp.full(leaf.shape, -100.0)
    else:
      top = 256 if leaf.dtype == jnp.uint8 else described.decoder.vocab_size
      value = jax.random.randint(one, leaf.shape, 0, top).astype(leaf.dtype)
    found.append(jax.device_put(value, leaf.sharding))
  out: Batch = jax.tree.unflatten(tree, found)
  width = out.prefix_ids.shape[-1]
  if isinstance(out.images, Mapping):  # tiles: which feature is which token
    index = out.images["index"]
    tokens = index.shape[-2]
    features = out.images["pixels"].shape[2] * described.image_tokens
    index = jnp.broadcast_to(jnp.arange(tokens)[:, None], index.shape)
    out = out._replace(images={**out.images, "index": index % features})
  else:
    tokens = out.images.shape[2] * described.image_tokens
  is_image = jnp.arange(width) < tokens
  return out._replace(
    prefix_ids=jnp.where(is_image, IMAGE_TOKEN, out.prefix_ids),
    prefix_len=jnp.full_like(out.prefix_len, width),
  )


def with_pairs(batch: Batch, pairs: int, chosen: int = 1) -> Batch:
  """A batch with so many pairs in each row, of `chosen` chosen answers."""

  def widen(x: Any) -> Any:
    # not the same tokens again, so that nothing is computed once for all
    several = lambda x, n: [jnp.roll(x, by, axis=-1) for by in range(n)]
    first, second = x[..., :1, :], x[..., 1:, :]
    answers = [*several(first, chosen), *several(second, pairs)]
    return jnp.concatenate(answers, axis=-2)

  of = None
  if chosen > 1:
    shape = (*batch.prefix_len.shape, pairs)
    of = jnp.broadcast_to(jnp.arange(pairs) % chosen, shape)
  return batch._replace(
    branch_ids=widen(batch.branch_ids),
    loss_mask=widen(batch.loss_mask),
    chosen_of=of,
  )
