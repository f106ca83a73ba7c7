"""Meshes on TPU slices by compiler: what limits a step, and which to take.

  python -m benchmarks.scaling [--only REGEX] [--json FILE]

Stage 2 of every model below is compiled for the slice (libtpu needs no TPU; a
few minutes a row). FLOPs are counted, bytes of collectives are read from the
compiled text, the chip's speeds are those of its data sheet. The seconds of a
step are the longest of the three (arithmetic, memory, links), that is, as if
everything overlapped. Rows that FILE has already are not compiled again.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from povid_jax import config as config_lib
from povid_jax import errors, files
from povid_jax.plan import planning, topology
from povid_jax.plan.abstract import Shape


@dataclasses.dataclass(frozen=True)
class Row:
  """One compilation: a config, a slice, (data, fsdp, tensor), pairs a step."""

  config: str
  slice: str
  mesh: tuple[int, int, int]
  pairs: int
  prefix: int = 704

  def __str__(self) -> str:
    mesh = "x".join(map(str, self.mesh))
    return f"{self.config} {self.slice} {mesh} {self.pairs}"


_7B, _13B = "configs/povid_stage2.py:7b", "configs/povid_stage2.py:13b"
_NEXT = "configs/povid_next.py:llava-next-7b"
ROWS = (
  Row(_7B, "v5e:4x4", (1, 16, 1), 16),
  Row(_7B, "v5e:4x4", (1, 16, 1), 64),
  Row(_7B, "v5e:4x4", (4, 4, 1), 64),
  Row(_7B, "v5e:16x16", (16, 16, 1), 256),
  Row(_7B, "v6e:8x8", (8, 8, 1), 64),
  Row(_7B, "v6e:8x8", (64, 1, 1), 64),
  Row(_13B, "v5e:4x4", (1, 16, 1), 64),
  Row(_13B, "v5p:4x4x4", (64, 1, 1), 64),
  Row(_13B, "v6e:8x8", (16, 4, 1), 64),
  Row(_13B, "v6e:8x8", (32, 2, 1), 64),
  Row(_NEXT, "v6e:8x8", (8, 8, 1), 64, 3072),
  Row(_NEXT, "v5p:4x4x4", (64, 1, 1), 64, 3072),
)


def compiled(row: Row) -> dict[str, Any]:
  """The plan of a row as it goes into the file."""
  data, fsdp, tensor = row.mesh
  fields = {
    "mesh.data": data,
    "mesh.fsdp": fsdp,
    "mesh.tensor": tensor,
    "batch_size": row.pairs,
  }
  config = config_lib.load(
    row.config, [(name, str(value)) for name, value in fields.items()]
  )
  _, described = planning.dimensions("", "", row.config)
  shape = Shape(row.prefix, 256)
  plan = planning.make(config, described, topology.parse(row.slice), shape)
  return dataclasses.asdict(plan)


def table(found: dict[str, dict[str, Any]], rows: Sequence[Row]) -> str:
  """Markdown, a line for each row that is there."""
  lines = []
  for row in rows:
    if (plan := found.get(str(row))) is None:
      continue
    limits = plan["roofline"]
    name = Path(row.config).stem.removeprefix("povid_").removeprefix("stage2")
    model = f"{name} {row.config.rpartition(':')[2]}".strip()
    head = [model, row.slice, " x ".join(map(str, row.mesh)), str(row.pairs)]
    memory = f"{plan['bytes_per_device'] / 1e9:.1f}"
    if limits is None or not plan["fits"]:
      why = "too much" if not plan["fits"] else "the rest is not known"
      lines.append([*head, f"{memory}: {why}", *[""] * 8])
      continue
    sent = [
      f"{limits['sent'].get(kind, 0) / 1e9:.1f}"
      for kind in ("all-gather", "collective-permute", "all-reduce")
    ]
    times = {k: limits[k] for k in ("arithmetic", "memory", "links")}
    longest, most = max((seconds, k) for k, seconds in times.items())
    lines.append(
      [
        *head,
        memory,
        f"{plan['hardware_flops_per_step'] / plan['devices']:.2e}",
        *sent,
        *(f"{times[k]:.2f}" for k in times),
        f"{row.pairs / longest:.0f}",
        f"{times['arithmetic'] / longest:.0%}, {most}",
      ]
    )
  heads = (
    "model|slice|data x fsdp x tensor|pairs|GB|FLOPs of a chip|gathered GB|"
    "passed on GB|reduced GB|arithmetic s|memory s|links s|pairs/s|"
    "efficiency, limit"
  )
  head = heads.split("|")
  every = [head, ["---"] * len(head), *lines]
  return "\n".join("| " + " | ".join(line) + " |" for line in every)


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="benchmarks.scaling",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--only", default="", help="regex: only rows that match")
  parser.add_argument("--json", type=Path, metavar="FILE")
  args = parser.parse_args(argv)
  found: dict[str, dict[str, Any]] = {}
  if args.json and args.json.exists():
    found = files.load_json(args.json)
  for row in ROWS:
    if str(row) in found or not re.search(args.only, str(row)):
      continue
    found[str(row)] = compiled(row)
    seconds = found[str(row)]["compile_seconds"]
    print(f"{row}: compiled in {seconds:.0f} s", flush=True)
    if args.json:
      with files.atomic_write(args.json) as file:
        json.dump(found, file, indent=1)
  print(table(found, ROWS))
  return 0


if __name__ == "__main__":
  errors.run(main)
