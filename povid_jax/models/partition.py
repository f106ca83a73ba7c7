"""How activations are cut over the mesh."""

import jax
from jax.sharding import PartitionSpec as P


def by_batch(x: jax.Array) -> jax.Array:
  """Keeps axis 0 cut over data and fsdp, the rest whole.

  Without this constraint the compiler may follow the cut of the weights and
  move activations instead of weights. Outside a mesh this does nothing.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or "fsdp" not in mesh.axis_names:
    return x
  spec = P(("data", "fsdp"), *([None] * (x.ndim - 1)))
  return jax.lax.with_sharding_constraint(x, spec)
