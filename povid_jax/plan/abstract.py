"""The step's arguments without a weight, on devices that need not exist."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.stages import Compiled
from ml_collections import ConfigDict

from povid_jax.data import batch as batch_lib
from povid_jax.data import layout as layouts
from povid_jax.data.batch import Batch
from povid_jax.errors import UserError
from povid_jax.models import quantised, sharding
from povid_jax.models.config import LlavaConfig
from povid_jax.objectives import Needs
from povid_jax.plan.topology import Topology
from povid_jax.training import build
from povid_jax.training.outline import Outline
from povid_jax.training.step import Frozen, State, StepFn


class Shape(NamedTuple):
  """What the data decide of a batch: P, C, pictures of a row and their size,
  and rejected answers of a row."""

  prefix: int = 704
  branch: int = 256
  images: int = 1
  size: layouts.Size = (640, 480)  # COCO's
  rejected: int = 1

  def room(self, described: LlavaConfig) -> layouts.Extent:
    """Tiles and image tokens of a pair."""
    layout = layouts.of(described)
    return layouts.total(layout.measure([self.size] * self.images))

  def branches(self, needs: Needs) -> int:
    """N of a batch for an objective."""
    return 1 + self.rejected if needs.rejected else 1


def make_mesh(
  config: ConfigDict, topology: Topology, compiled: bool
) -> Mesh | AbstractMesh:
  """Devices that can be compiled for (described or virtual), or a count."""
  if not compiled:
    sizes = sharding.axis_sizes(config.mesh, topology.devices)
    return AbstractMesh(sizes, sharding.AXES)
  if topology.platform == "tpu":
    return sharding.make_mesh(config.mesh, _tpu_devices(topology))
  devices = jax.devices("cpu")
  if len(devices) < topology.devices:
    raise UserError(
      f"{topology.name}: JAX has already started with {len(devices)} devices; "
      "set "
      f"XLA_FLAGS=--xla_force_host_platform_device_count={topology.devices}"
    )
  return sharding.make_mesh(config.mesh, devices[: topology.devices])


def _tpu_devices(topology: Topology) -> list:
  """Devices that exist only for the compiler.

  Raises:
    UserError: libtpu is not installed, or does not support the slice.
  """
  from jax.experimental import topologies

  try:
    import libtpu  # noqa: F401
  except ImportError as error:
    raise UserError(
      f'{topology.name} needs libtpu: pip install "jax[tpu]"'
    ) from error
  # libtpu asks a metadata server where it runs unless told not to
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # and locks the machine's TPUs, which no plan uses: two may run at a time
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  # JAX runs a v4 chip as one device; libtpu would describe its two halves
  v4 = topology.name.startswith("v4:")
  options = {"chip_config_name": "megacore"} if v4 else {}
  try:
    with _quiet():
      found = topologies.get_topology_desc(
        platform="tpu", topology_name=topology.name, **options
      )
  except Exception as error:
    lines = str(error).splitlines() or [repr(error)]
    raise UserError(
      f"--topology={topology.name}: libtpu does not have it "
      f"({lines[0]}); want one that the cloud offers, v5e:4x4 say"
    ) from error
  return list(found.devices)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Hides the message of libtpu that there is no TPU."""
  saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(sink, 2)
  try:
    yield
  finally:
    os.dup2(saved, 2)
    os.close(saved)
    os.close(sink)


def abstract_arguments(
  config: ConfigDict,
  described: LlavaConfig,
  sketch: Outline,
  step: StepFn,
  mesh: Mesh | AbstractMesh,
  shape: Shape,
) -> tuple[State, Frozen, Batch]:
  """The arguments of the step: shapes and shardings, nothing allocated."""
  dtype = jnp.dtype(config.dtype)

  def put(path: str, dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
    size = sketch.shapes[path].shape
    placed = NamedSharding(mesh, sharding.spec_for(path, size, mesh))
    return jax.ShapeDtypeStruct(size, dtype, sharding=placed)

  trained = {path: put(path, jnp.float32) for path in sketch.trained}
  frozen = Frozen(
    {
      path: put(path, leaf.dtype if quantised.is_stored(path, leaf) else dtype)
      for path, leaf in sketch.shapes.items()
      if path not in trained
    },
    {path: put(path, dtype) for path in sketch.copied},
  )
  state = build.describe_state(step, trained, mesh)
  return state, frozen, abstract_batch(config, described, step, mesh, shape)


def abstract_batch(
  config: ConfigDict,
  described: LlavaConfig,
  step: StepFn,
  mesh: Mesh | AbstractMesh,
  shape: Shape,
) -> Batch:
  """A batch as `build.place` makes it."""
  cut = NamedSharding(mesh, P(None, *sharding.BATCH))
  lead = (config.grad_accum, config.batch_size // config.grad_accum)
  needs = step.spec.needs
  cached = config.reference == "cached" and needs.reference
  layout = layouts.of(described)
  row = batch_lib.describe(
    prefix=shape.prefix,
    branch=shape.branch,
    branches=shape.branches(needs),
    pictures=layout.describe(shape.room(described)),
    noise=config.noise.site if needs.noisy_picture else None,
    weighted=config.data.changed_weight != 1.0,
    reference=needs.fixed.terms if cached else (),
    position_axes=layout.position_axes,
  )
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype, sharding=cut),
    row.for_model(),
  )


def compile_step(
  step: StepFn, arguments: tuple, mesh: Mesh
) -> tuple[Compiled | None, str]:
  """The step as the hardware would run it, or why the compiler refuses it."""
  try:
    with jax.set_mesh(mesh):
      lowered = jax.jit(step, donate_argnums=0).lower(*arguments)
      return lowered.compile(), ""
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    used = re.search(r"Used ([\d.]+)([GM]) of ([\d.]+)G hbm", str(error))
    said = f": {used[0]}" if used else ""
    return None, f"the program does not fit into the memory{said}"


def temporaries(compiled: Compiled) -> int:
  """Bytes that come on top of the arguments.

  Results take the place of the donated state, so only temporaries (gradients
  and activations among them) do.
  """
  memory = compiled.memory_analysis()
  assert memory is not None  # CPU, GPU and TPU all have it
  kept = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return memory.temp_size_in_bytes + max(0, kept)
