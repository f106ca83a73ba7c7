"""Memory and time of a step on given hardware, by compilation if possible."""

import dataclasses
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from povid_jax.checkpoints import restore
from povid_jax.errors import UserError
from povid_jax.models import chips, footprint, sharding
from povid_jax.models.config import LlavaConfig
from povid_jax.models.pictures import chunk_of
from povid_jax.models.presets import PRESETS, preset
from povid_jax.plan import program as program_lib
from povid_jax.plan.abstract import (
  Shape,
  abstract_arguments,
  compile_step,
  make_mesh,
  temporaries,
)
from povid_jax.plan.roofline import Roofline, roofline
from povid_jax.plan.topology import Topology
from povid_jax.training import build
from povid_jax.training.accounting import step_flops
from povid_jax.training.outline import Outline, outline
from povid_jax.training.step import StepFn

_UNPRINTED = (
  f"JAX {jax.__version__} compiles this program but cannot print it, so "
  "what the devices send each other and the least time of a step are not "
  "known; a newer version of JAX may print it"
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The result of a plan. Bytes are those of one device.

  Attributes:
    fits: bytes_per_device is within memory_per_device.
    estimated: by formula, not by the compiler.
    bytes: by kind; they add up to bytes_per_device.
    flops_per_step: all devices, without rematerialisation (for MFU).
    hardware_flops_per_step: with it.
    arithmetic_intensity: hardware FLOPs by byte of memory traffic; the traffic
      is a bound from below, see footprint.traffic.
    ridge: the intensity above which the chip computes rather than waits.
    batch_pairs: rows of a step; with several rejected answers a row is as many
      pairs.
    branches: answers of a row.
    peak_flops: FLOP/s of all devices together, or None; with config.matmul
      the mean of both speeds of the chip over the FLOPs.
    roofline: seconds that each limit alone would take, and bytes of
      collectives; None where nothing was compiled or we do not know the chip.
  """

  fits: bool
  estimated: bool
  bytes_per_device: int
  memory_per_device: int
  bytes: dict[str, int]
  flops_per_step: float
  hardware_flops_per_step: float
  arithmetic_intensity: float
  ridge: float | None
  peak_flops: float | None
  batch_pairs: int
  grad_accum: int
  prefix: int
  branch: int
  branches: int
  devices: int
  mesh: dict[str, int]
  remat: str
  head_chunk: int
  attention: str
  compile_seconds: float | None
  notes: list[str]
  roofline: Roofline | None = None
  suggestions: list[dict[str, Any]] = dataclasses.field(default_factory=list)

  @property
  def pairs(self) -> int:
    """Pairs of a step, as the metrics of a run count them."""
    return self.batch_pairs * max(1, self.branches - 1)


def dimensions(name: str, init: str, spec: str) -> tuple[str, LlavaConfig]:
  """The model that is planned: its name, and its dimensions.

  Args:
    name: of a preset, or "".
    init: config.init, or "".
    spec: FILE:VARIANT; a preset's name, or 13b, 13b_8gpu and the like for
      LLaVA-1.5 13B.

  Raises:
    UserError: none of these arguments names a model.
  """
  if name:
    return f"preset {name}", preset(name)
  if init:
    return init, restore.describe(init)
  variant = spec.rpartition(":")[2]
  size = re.match(r"[0-9]+b(?![a-z0-9])", variant.replace("_", " "))
  known = f"llava-1.5-{size[0]}" if size else variant
  if known in PRESETS:
    return f"preset {known}, by the variant", preset(known)
  raise UserError(
    f"--config={spec} does not name a model: add --preset=NAME (of "
    f"{', '.join(PRESETS)}), --config.init=FOLDER, or a variant such as "
    "configs/povid_stage2.py:7b"
  )


def complete(
  config: ConfigDict, topology: Topology
) -> tuple[ConfigDict, list[str]]:
  """The config without fields that a plan does not need, and with a batch size
  that divides over the mesh.
  """
  notes = []
  config = config.copy_and_resolve_references()
  sizes = sharding.axis_sizes(config.mesh, topology.devices)
  with config.unlocked():
    config.init = config.init or "(any)"
    config.data.train = config.data.train or "(any)"
    multiple = sizes[0] * sizes[1] * config.grad_accum
    if config.batch_size % multiple:
      whole = -(-config.batch_size // multiple) * multiple
      notes.append(
        f"batch_size={config.batch_size} cannot be divided over the mesh, so "
        f"this plan is for {whole}: train with --config.batch_size={whole}"
      )
      config.batch_size = whole
  build.check(config)
  return config, notes


def make(
  config: ConfigDict,
  described: LlavaConfig,
  topology: Topology,
  shape: Shape,
  compiled: bool = True,
) -> Plan:
  """Plans one config.

  Args:
    compiled: False: by formula, in a moment.

  Raises:
    UserError: a config that cannot run there, however large the memory.
  """
  config, notes = complete(config, topology)
  room = shape.room(described)
  if shape.prefix <= room.tokens:
    raise UserError(
      f"--prefix={shape.prefix} leaves no room for a question: the pictures "
      f"alone need {room.tokens} tokens; give a larger --prefix"
    )
  sketch = outline(config, described, topology.platform)
  compiled &= topology.platform != "gpu"
  mesh = make_mesh(config, topology, compiled)
  sharding.check(mesh, described, config.batch_size // config.grad_accum)
  # any number of steps that has room for the warm-up: none of it is compiled
  steps = max(1000, 2 * config.warmup_steps, config.steps)
  step, _ = build.make_step(config, sketch, steps)
  arguments = abstract_arguments(config, described, sketch, step, mesh, shape)
  load = load_of(config, described, sketch, step, mesh, shape)
  held = held_bytes(arguments)
  seconds, temporary, problem, sent = None, None, "", None
  if compiled:
    assert isinstance(mesh, Mesh)  # only an estimate has an abstract one
    start = time.monotonic()
    program, problem = compile_step(step, arguments, mesh)
    seconds = time.monotonic() - start
    if program is None:
      notes.append(problem)
    else:
      temporary = temporaries(program)
      sent = program_lib.of(program)
      if sent is None:
        notes.append(_UNPRINTED)
  elif topology.assumed:
    notes += [
      "all above is an estimate: memory by formula, speed by the data sheet of "
      f"the {topology.assumed}",
      chips.measured(topology.assumed.partition(",")[0]),
    ]
  kinds = by_kind(held, load, temporary)
  total = sum(kinds.values())
  counted = step_flops(
    *(config, described, sketch, step),
    prefix=shape.prefix,
    branch=shape.branch,
    branches=shape.branches(step.spec.needs),
    tiles=room.tiles,
  )
  work = counted.total
  # the run with a gradient reads the weights three times: there, again, back
  passes = (counted.passes + 2) * config.grad_accum
  moved = footprint.traffic(load, kinds, passes)
  chip = topology.chip
  speed, more = _speed(config.matmul, chip, counted.share)
  notes += more
  memory = chip.memory
  if topology.platform == "cpu":
    memory //= topology.devices
  return Plan(
    fits=total <= memory and not problem,
    estimated=temporary is None,
    bytes_per_device=total,
    memory_per_device=memory,
    bytes=kinds,
    flops_per_step=work.model,
    hardware_flops_per_step=work.hardware,
    arithmetic_intensity=work.hardware / topology.devices / moved,
    ridge=speed / chip.bandwidth if speed and chip.bandwidth else None,
    peak_flops=speed * topology.devices if speed else None,
    batch_pairs=config.batch_size,
    grad_accum=config.grad_accum,
    prefix=shape.prefix,
    branch=shape.branch,
    branches=shape.branches(step.spec.needs),
    devices=topology.devices,
    mesh=dict(mesh.shape),
    remat=config.remat,
    head_chunk=config.head_chunk,
    attention=sketch.attention,
    compile_seconds=seconds,
    notes=notes,
    roofline=roofline(
      dataclasses.replace(chip, flops=speed),
      sent,
      work.hardware / topology.devices,
      moved,
    )
    if sent
    else None,
  )


def _speed(
  matmul: str, chip: chips.Chip, share: float
) -> tuple[float | None, list[str]]:
  """Peak FLOP/s of a chip with this share of products in 8 bits, and notes."""
  if matmul == "bf16" or not chip.flops:
    return chip.flops, []
  if matmul not in chip.eight:
    return chip.flops, [
      f"config.matmul={matmul}: this chip has no such products that are faster "
      "than those of bfloat16, so it saves memory at most"
    ]
  return chip.speed(share), [
    f"config.matmul={matmul}: {share:.0%} of the FLOPs at twice the peak, by "
    "data sheet; quantising takes time too, and nothing was measured yet"
  ]


def held_bytes(arguments: tuple) -> dict[str, int]:
  """Bytes of one device by kind, of what outlives a step."""
  state, frozen, batch = arguments
  size = lambda tree: footprint.held(jax.tree.leaves(tree))
  return {
    "weights": size(frozen),
    "trained": size(state.params),
    "optimizer": size(state.opt_state),
    "batch": size(batch),
  }


def by_kind(
  held: dict[str, int], load: footprint.Load, temporary: int | None
) -> dict[str, int]:
  """Bytes by kind; the compiler's temporaries split by what we know of them."""
  gradients = held["trained"]
  kept = footprint.activations(load)
  if temporary is None:
    rest = footprint.temporaries(load)
  else:
    gradients = min(gradients, temporary)
    kept = min(kept, temporary - gradients)
    rest = temporary - gradients - kept
  return {
    **held,
    "gradients": gradients,
    "activations": kept,
    "temporaries": rest,
  }


def load_of(
  config: ConfigDict,
  described: LlavaConfig,
  sketch: Outline,
  step: StepFn,
  mesh: Mesh | AbstractMesh,
  shape: Shape,
) -> footprint.Load:
  """What one device runs at a time."""
  rows = config.grad_accum * mesh.shape["data"] * mesh.shape["fsdp"]
  tiles = cut = shape.room(described).tiles
  itemsize = jnp.dtype(config.dtype).itemsize
  if described.layout.newline and cut:
    tiles = chunk_of(config.batch_size // config.grad_accum, cut)
  return footprint.Load(
    config=described,
    lora=sketch.lora,
    rows=config.batch_size // rows,
    prefix=shape.prefix,
    branch=shape.branch,
    branches=shape.branches(step.spec.needs),
    tensor=mesh.shape["tensor"],
    itemsize=itemsize,
    kernel_itemsize=itemsize if config.matmul == "bf16" else 1,
    remat=config.remat,
    head_chunk=config.head_chunk,
    attention=sketch.attention,
    tiles=tiles,
  )
