"""The cost of a step, independent of the machine: the values that tests check.

  python -m benchmarks.costs            against benchmarks/costs.json
  python -m benchmarks.costs --write    take today's values for this JAX

Small steps are compiled for eight virtual devices, and the decoding loop for
one; nothing is run. FLOPs of matrix products, bytes of temporaries, number and
bytes of collectives, and the kernels that the runtime starts are read from the
compiled programs. They depend on our code and on the version of JAX, not on
the machine: values are kept by version, and a version without values is not
judged.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before JAX starts
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
from jax.stages import Compiled, Lowered

from benchmarks.step_cases import step_of
from povid_jax import errors, files
from povid_jax.errors import UserError
from povid_jax.generate import slots as slots_lib
from povid_jax.generate.decode import Decoding
from povid_jax.models import params, sharding
from povid_jax.models.presets import preset
from povid_jax.plan import program
from povid_jax.plan.abstract import Shape, abstract_arguments, temporaries

FILE = Path(__file__).with_name("costs.json")
TOLERANCE = 0.05
SHAPE = Shape(prefix=32, branch=16)
_TINY = preset("tiny")
# real models run their layers in a loop, those of few layers do not
MODEL = dataclasses.replace(
  _TINY,
  vision=dataclasses.replace(_TINY.vision, num_layers=10),
  decoder=dataclasses.replace(_TINY.decoder, num_layers=10),
)
_FIELDS = {
  "batch_size": 8,
  "dtype": "float32",
  "attention": "xla",
  "remat": "full",
  "head_chunk": 64,
  "lora.rank": 4,
  # two of seven: half the time of compilation, and every kind of cut
  "lora.targets": r"decoder/layers/.*(q_proj|down_proj)$",
}
_FSDP = {"mesh.fsdp": 8}
_MIXED = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
STEPS: dict[str, dict[str, Any]] = {
  "stage 1": {"objective.name": "dpo", **_FSDP},
  "stage 1, cached": {
    "objective.name": "dpo",
    "reference": "cached",
    **_FSDP,
  },
  "stage 2": {"objective.name": "povid", **_FSDP},
  "stage 2, mixed mesh": {"objective.name": "povid", **_MIXED},
}
DECODE = "decoding"
NAMES = (*STEPS, DECODE)


def costs(name: str) -> dict[str, int]:
  """The counts of one case; each kind of collective has its own."""
  lowered = _decoding() if name == DECODE else _step(STEPS[name])
  compiled = _compile(lowered)
  found = program.read(compiled.as_text() or "")
  out = {
    "flops": found.flops,
    "temporaries": temporaries(compiled),
    "kernels": found.kernels,
    "unknown loops": found.unknown_loops,
  }
  for kind in sorted(found.counts):
    out |= {kind: found.counts[kind], f"{kind} bytes": found.bytes[kind]}
  return out


def _compile(lowered: Lowered) -> Compiled:
  """The same options wherever it runs; the machine code does not matter."""
  options: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
  }
  if jax.__version_info__ < (0, 11):
    # the tests switch it off; later versions do not know the option
    options["xla_cpu_use_fusion_emitters"] = True
  return lowered.compile(options)


def _step(fields: dict[str, Any]) -> Lowered:
  if len(jax.devices()) < 8:
    raise UserError(
      "want 8 devices: set XLA_FLAGS=--xla_force_host_platform_device_count=8"
    )
  config, sketch, step = step_of(MODEL, {**_FIELDS, **fields})
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:8])
  arguments = abstract_arguments(config, MODEL, sketch, step, mesh, SHAPE)
  with jax.set_mesh(mesh):
    return jax.jit(step, donate_argnums=0).lower(*arguments)


def _decoding() -> Lowered:
  """The loop over tokens: four prompts with two branches each."""
  graph, shapes = params.abstract(MODEL)
  sizes = dict(slots=4, branches=2, prefix=SHAPE.prefix, length=SHAPE.branch)
  state = jax.eval_shape(
    lambda weights: slots_lib.empty(
      graph, weights, np.zeros(2, np.uint32), **sizes
    ),
    shapes,
  )
  return slots_lib.advance.lower(
    graph,
    shapes,
    state,
    jax.ShapeDtypeStruct((), np.int32),
    decoding=Decoding(max_new_tokens=SHAPE.branch),
    stops=slots_lib.Stops((0,)),
  )


def committed() -> dict[str, dict[str, int]] | None:
  """The values of this version of JAX, or None."""
  return files.load_json(FILE).get(jax.__version__)


def compare(found: dict[str, int], wanted: dict[str, int]) -> list[str]:
  """What differs by more than the tolerance, a line for each."""
  lines = []
  for what in sorted({*found, *wanted}):
    now, then = found.get(what, 0), wanted.get(what, 0)
    if abs(now - then) > TOLERANCE * then:
      change = f"{now / then - 1:+.1%}" if then else "new"
      lines.append(f"{what}: {now:,} now, {then:,} committed ({change})")
  return lines


def main(argv: Sequence[str] | None = None) -> int:
  """The command; exit code 1 where something differs."""
  parser = argparse.ArgumentParser(
    prog="benchmarks.costs",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--write", action="store_true", help="write the new values to the file"
  )
  write = parser.parse_args(argv).write
  found = {name: costs(name) for name in NAMES}
  wanted = committed() or {}
  changes = [
    f"{name}: {line}"
    for name in NAMES
    for line in compare(found[name], wanted.get(name, {}))
  ]
  print("\n".join(changes) or "as committed")
  if not write:
    return 1 if changes else 0
  every = files.load_json(FILE) if FILE.exists() else {}
  with files.atomic_write(FILE) as file:
    json.dump({**every, jax.__version__: found}, file, indent=1)
    file.write("\n")
  print(f"written to {FILE}")
  return 0


if __name__ == "__main__":
  errors.run(main)
