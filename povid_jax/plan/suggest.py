"""Settings near those of a plan that fit where it does not."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from povid_jax.config import set_field
from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig
from povid_jax.plan import planning
from povid_jax.plan.abstract import Shape
from povid_jax.plan.planning import Plan
from povid_jax.plan.topology import Topology

# compilations of candidates that the formula lets through
_TRIES = 3


def complete(
  plan: Plan,
  config: ConfigDict,
  described: LlavaConfig,
  topology: Topology,
  shape: Shape,
) -> Plan:
  """The plan with the nearest settings that fit, if it does not itself."""
  if plan.fits:
    return plan
  tried = 0
  for fields in candidates(plan):
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
      for name, value in fields.items():
        set_field(changed, name, value)
    try:
      found = planning.make(changed, described, topology, shape, compiled=False)
      if not found.fits:
        continue
      if topology.platform != "gpu":
        found = planning.make(changed, described, topology, shape)
    except UserError:  # heads or rows that do not divide
      continue
    tried += 1
    if found.fits:
      suggestion = {
        "set": fields,
        "bytes_per_device": found.bytes_per_device,
        "batch_pairs": found.batch_pairs,
      }
      return dataclasses.replace(plan, suggestions=[suggestion])
    if tried == _TRIES:
      break
  return plan


def candidates(plan: Plan) -> Iterator[dict[str, Any]]:
  """Config fields to change, the smallest loss of speed first.

  The batch stays what it is until nothing else is left.
  """
  base: dict[str, Any] = {"batch_size": plan.batch_pairs}
  if plan.remat != "full":
    base = {**base, "remat": "full"}
    yield base
  if plan.mesh["fsdp"] * plan.mesh["tensor"] < plan.devices:
    cut = {"mesh.data": 1, "mesh.fsdp": -1}
    base = {**base, **cut, "mesh.tensor": plan.mesh["tensor"]}
    yield base
  tensor = plan.mesh["tensor"]
  while tensor <= min(plan.devices, 8):
    rows = plan.devices // tensor
    mesh = {"mesh.data": 1, "mesh.fsdp": rows, "mesh.tensor": tensor}
    accumulate = plan.grad_accum
    while plan.batch_pairs % (accumulate * rows) == 0:
      yield {**base, **mesh, "grad_accum": accumulate}
      accumulate *= 2
    tensor *= 2
  rows = plan.devices // plan.mesh["tensor"]
  yield {
    **base,
    "mesh.data": 1,
    "mesh.fsdp": rows,
    "mesh.tensor": plan.mesh["tensor"],
    "batch_size": rows,
    "grad_accum": 1,
    "head_chunk": 64,
  }
