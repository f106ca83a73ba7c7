"""How activations are cut over the mesh."""

import math

import jax
from jax.sharding import PartitionSpec as P

_ROWS = ("data", "fsdp")  # axes that cut the batch


def by_batch(x: jax.Array) -> jax.Array:
  """Keeps axis 0 cut over data and fsdp, the rest whole.

  Without this constraint the compiler may follow the cut of the weights and
  move activations instead of weights. Every layer of tower, projector and
  decoder has it: without it in tower and projector, jax 0.10.2 made wrong
  gradients for both on a mesh of 2 x 2 x 2 (pictures in tiles; any two of the
  three axes were right). Outside a mesh this does nothing.
  """
  if not _mesh():
    return x
  spec = P(_ROWS, *([None] * (x.ndim - 1)))
  return jax.lax.with_sharding_constraint(x, spec)


def gathered(x: jax.Array, *axes: str | None) -> jax.Array:
  """A parameter cut over the axes of the mesh that are named, whole in others.

  For one that a loop uses: the compiler would gather it in each round. An axis
  that does not divide is left, as in `sharding.RULES`.
  """
  mesh = _mesh()
  if not mesh:
    return x
  spec = (
    axis if axis and size % mesh[axis] == 0 else None
    for axis, size in zip(axes, x.shape, strict=True)
  )
  return jax.lax.with_sharding_constraint(x, P(*spec))


def batch_of_a_device(batch: int) -> int:
  """How many of so many examples one device has; all, if they do not divide."""
  devices = math.prod(_mesh().get(axis, 1) for axis in _ROWS)
  return batch // devices if batch % devices == 0 else batch


def _mesh() -> dict[str, int]:
  """Sizes of the axes of the mesh that is set; empty without one of ours."""
  mesh = jax.sharding.get_abstract_mesh()
  return dict(mesh.shape) if "fsdp" in mesh.axis_names else {}
