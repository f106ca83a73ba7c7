"""One mesh, one table from parameter paths to how they are cut.

Axes: `data` copies the parameters, `fsdp` cuts them (and gathers a layer when
it runs), `tensor` cuts the layers' arithmetic. Batches are cut over `data` and
`fsdp` together.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from povid_jax.errors import UserError
from povid_jax.models import partition
from povid_jax.models.config import LlavaConfig

AXES = ("data", "fsdp", "tensor")
BATCH = P(partition.ROWS)

# first match wins; a leading None is the layer axis of stacked parameters
RULES: tuple[tuple[str, P], ...] = (
  (r"embed_tokens/embedding$", P("tensor", "fsdp")),  # [V, D]
  (r"lm_head/kernel$", P("fsdp", "tensor")),  # [D, V]
  # into heads or the wide side: outputs are cut
  (
    r"layers/.*/([qkv]_proj|gate_proj|up_proj|fc1)/kernel(_scale)?$",
    P(None, "fsdp", "tensor"),
  ),
  (r"layers/.*/([qkv]_proj|gate_proj|up_proj|fc1)/bias$", P(None, "tensor")),
  (
    r"layers/.*/([qkv]_proj|gate_proj|up_proj|fc1)/lora_a$",
    P(None, "fsdp", None),
  ),
  (
    r"layers/.*/([qkv]_proj|gate_proj|up_proj|fc1)/lora_b$",
    P(None, "fsdp", "tensor"),
  ),
  # back to the model width: inputs are cut
  (
    r"layers/.*/(o_proj|out_proj|down_proj|fc2)/kernel(_scale)?$",
    P(None, "tensor", "fsdp"),
  ),
  (
    r"layers/.*/(o_proj|out_proj|down_proj|fc2)/lora_a$",
    P(None, "tensor", "fsdp"),
  ),
  (
    r"layers/.*/(o_proj|out_proj|down_proj|fc2)/lora_b$",
    P(None, None, "fsdp"),
  ),
  # queries, keys and values in one matrix: a cut over heads would mix them
  (r"layers/.*/qkv/(kernel(_scale)?|lora_a)$", P(None, "fsdp", None)),
  (r"layers/.*/attn/proj/(kernel(_scale)?|lora_b)$", P(None, None, "fsdp")),
  (r"projector/linear_\d/kernel$", P("fsdp", "tensor")),
  (r".*", P()),  # norms, biases, CLIP embeddings: small, on every device
)


def axis_sizes(shape: Mapping[str, int], count: int) -> tuple[int, ...]:
  """Sizes of AXES over `count` devices; one may be -1 and takes what is left.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  sizes = [int(shape[axis]) for axis in AXES]
  named = ", ".join(f"{a}={s}" for a, s in zip(AXES, sizes, strict=True))
  if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
    raise UserError(f"mesh ({named}): want positive sizes and at most one -1")
  known = int(np.prod([s for s in sizes if s != -1]))
  if -1 in sizes and count % known == 0:
    sizes[sizes.index(-1)] = count // known
  if int(np.prod(sizes)) != count:
    raise UserError(
      f"mesh ({named}) does not divide {count} devices; "
      "the sizes must multiply to the number of devices (-1 fills)"
    )
  return tuple(sizes)


def make_mesh(
  shape: Mapping[str, int],
  # jaxlib's stubs hide that Device is a class
  devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> Mesh:
  """A mesh over all devices.

  Raises:
    UserError: as `axis_sizes` and `arranged`.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = axis_sizes(shape, len(devices))
  types = (jax.sharding.AxisType.Auto,) * len(AXES)
  return Mesh(arranged(sizes, devices), AXES, axis_types=types)


def arranged(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
  """The devices as an array of these sizes, so that what talks most is near.

  JAX calls devices with fast links between them a slice: the GPUs of a host (or
  of an NVLink rack), the chips of a TPU slice. `jax.make_mesh` takes one slice
  only. Of several, the first axes that can go from slice to slice.

  Raises:
    UserError: the slices have different numbers of devices.
  """
  per_slice = Counter(getattr(d, "slice_index", 0) for d in devices)
  if len(set(per_slice.values())) > 1:
    counts = ", ".join(map(str, per_slice.values()))
    raise UserError(
      "mesh: every machine (or TPU slice) must have the same number of "
      f"devices, they have {counts}"
    )
  between, left = [], len(per_slice)
  for size in sizes:
    between.append(math.gcd(size, left))
    left //= between[-1]
  inside = [a // b for a, b in zip(sizes, between, strict=True)]

  def arrange(split: bool) -> np.ndarray:
    how = dict(allow_split_physical_axes=split)
    if len(per_slice) == 1:
      return mesh_utils.create_device_mesh(sizes, devices, **how)
    return mesh_utils.create_hybrid_device_mesh(inside, between, devices, **how)

  try:
    return arrange(split=False)
  except NotImplementedError:
    # an axis of the mesh that is no product of the torus' sides, as 16 x 4 on
    # 8 x 8 chips: its neighbours are not all one link apart
    return arrange(split=True)


def spec_for(path: str, shape: Sequence[int], mesh: Mesh | AbstractMesh) -> P:
  """The PartitionSpec of a parameter; an axis that does not divide is left."""
  spec = next(spec for pattern, spec in RULES if re.search(pattern, path))
  return partition.dividing(spec, shape, mesh)


def sharding_for(mesh: Mesh) -> Callable[[str, Sequence[int]], NamedSharding]:
  """Function from (path, shape) to sharding, as `checkpoint.load` takes it."""
  return lambda path, shape: NamedSharding(mesh, spec_for(path, shape, mesh))


def check(
  mesh: Mesh | AbstractMesh, config: LlavaConfig, microbatch: int
) -> None:
  """Raises UserError where heads or the batch do not divide over the mesh."""
  tensor = mesh.shape["tensor"]
  for name in ("num_heads", "num_kv_heads"):
    heads = getattr(config.decoder, name)
    if heads % tensor:
      raise UserError(
        f"mesh.tensor={tensor} does not divide decoder.{name}={heads}"
      )
  rows = mesh.shape["data"] * mesh.shape["fsdp"]
  if microbatch % rows:
    more = -(-microbatch // rows) * rows
    raise UserError(
      f"batch_size / grad_accum = {microbatch} pairs do not divide over "
      f"mesh data x fsdp = {rows} devices: take {more} pairs per microbatch "
      f"(--config.batch_size={more} with --config.grad_accum=1)"
      + _other_mesh(rows * tensor, config, microbatch)
    )


def _other_mesh(devices: int, config: LlavaConfig, microbatch: int) -> str:
  """The flags of a mesh over all devices that fits the batch, as text."""
  heads = math.gcd(config.decoder.num_heads, config.decoder.num_kv_heads)
  for tensor in range(1, devices + 1):
    rows = devices // tensor
    fits = devices % tensor == 0 and heads % tensor == 0
    if fits and microbatch % rows == 0:
      return (
        f", or --config.mesh.data=1 --config.mesh.fsdp={rows} "
        f"--config.mesh.tensor={tensor}"
      )
  return ""
