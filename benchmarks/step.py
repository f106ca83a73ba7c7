"""How fast a training step is, against what it could have been.

  python -m benchmarks.step                      on this machine's CPU
  python -m benchmarks.step --preset llava-1.5-7b --device gpu
  python -m benchmarks.step ... --json FILE

On a CPU: a pair of a picture (576 tokens), a question of 40 and two answers of
110 tokens, decoder of width 512 with 8 layers, in float32. The shared step
against the plain one (image and question once per answer), with and without
cached reference, and the whole stage 2 step against the released algorithm's
amount of work (benchmarks/released_step.py). Medians of steps run in turns.

On a GPU: the true shapes of a preset with random bfloat16 weights, stages 1 and
2, each attention backend, by batch: pairs/s, MFU (required FLOPs over the
measured speed of a bfloat16 matrix product) and memory as compiled.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import released_step
from benchmarks.step_cases import measure, other, ours
from povid_jax import errors, files
from povid_jax.abstract import Shape
from povid_jax.errors import UserError
from povid_jax.models import backends
from povid_jax.models.config import DecoderConfig, LlavaConfig, VisionConfig
from povid_jax.models.presets import preset
from povid_jax.models.scoring import token_logps

SMALL = LlavaConfig(
  vision=VisionConfig(
    hidden_size=256, intermediate_size=1024, num_layers=6, num_heads=4
  ),
  decoder=DecoderConfig(
    hidden_size=512,
    intermediate_size=1376,
    num_layers=8,
    num_heads=8,
    num_kv_heads=8,
    head_dim=64,
  ),
)
_LORA = {"lora.rank": 16, "lora.alpha": 32.0, "lr": 1e-6}


def compare(
  described: LlavaConfig, shape: Shape, batch: int, repeats: int
) -> dict[str, Any]:
  """The CPU's table: seconds of each step and their ratios."""
  common = {
    **_LORA,
    "batch_size": batch,
    "dtype": "float32",
    "remat": "none",
    "attention": "xla",
  }
  kinds = {
    "shared": {},
    "plain": {"share_prefix": False},
    "shared, cached": {"reference": "cached"},
    "plain, cached": {"share_prefix": False, "reference": "cached"},
  }
  dpo = {**common, "objective.name": "dpo"}
  cases = [
    ours(name, described, shape, {**dpo, **fields})
    for name, fields in kinds.items()
  ]
  # one epoch has one noise for each picture: the cache is allowed
  povid = {**common, "objective.name": "povid"}
  cached = {**povid, "reference": "cached"}
  cases += [
    ours("stage 2", described, shape, povid),
    ours("stage 2, cached", described, shape, cached),
    other(
      "released work",
      described,
      shape,
      povid,
      released_step.make,
      released_step.repeat_images,
    ),
  ]
  measure(cases, repeats)
  seconds = {case.name: case.median for case in cases}
  ratio = lambda slow, fast: seconds[slow] / seconds[fast]
  return {
    "seconds": seconds,
    "ratios": {
      "shared against plain": ratio("plain", "shared"),
      "shared against plain, both cached": ratio(
        "plain, cached", "shared, cached"
      ),
      "shared and cached against plain": ratio("plain", "shared, cached"),
      "stage 2 against released work": ratio("released work", "stage 2"),
      "stage 2, cached, against released work": ratio(
        "released work", "stage 2, cached"
      ),
    },
    "head": head_memory(),
  }


def head_memory(
  pairs: int = 4, prefix: int = 704, branch: int = 256, vocab: int = 32000
) -> dict[str, float]:
  """Bytes that scoring two answers takes, with gradients, as compiled.

  `naive` has float32 logits at every position of both sequences, `scored` at
  those of the answers only, `chunked` is models.scoring at its default.
  """
  dim = 128
  kernel = jax.ShapeDtypeStruct((dim, vocab), jnp.bfloat16)

  def whole(hidden: jax.Array, ids: jax.Array, kernel: jax.Array) -> jax.Array:
    logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), ids, -1).sum()

  def chunked(
    hidden: jax.Array, ids: jax.Array, kernel: jax.Array
  ) -> jax.Array:
    head = lambda h: jnp.matmul(h, kernel, preferred_element_type=jnp.float32)
    return token_logps(head, hidden, ids).sum()

  def size(fn: Any, rows: int) -> int:
    hidden = jax.ShapeDtypeStruct((rows, dim), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
    lowered = jax.jit(jax.grad(fn)).lower(hidden, ids, kernel)
    memory = lowered.compile().memory_analysis()
    assert memory is not None  # CPU, GPU and TPU all have it
    return memory.temp_size_in_bytes

  scored = 2 * pairs * branch
  out = {
    "naive": size(whole, 2 * pairs * (prefix + branch)),
    "scored": size(whole, scored),
    "chunked": size(chunked, scored),
  }
  return {**out, "naive over chunked": out["naive"] / out["chunked"]}


def sweep(
  described: LlavaConfig,
  shape: Shape,
  batches: Sequence[int],
  repeats: int,
  rank: int,
) -> dict[str, Any]:
  """The accelerator's table: every stage, backend and batch."""
  peak = matmul_flops()
  rows = []
  for stage, name in (("stage 1", "dpo"), ("stage 2", "povid")):
    for backend in usable(described):
      for batch in batches:
        fields = {
          "objective.name": name,
          "reference": "cached",
          "attention": backend,
          "batch_size": batch,
          "lora.rank": rank,
        }
        row = {"stage": stage, "attention": backend, "batch": batch}
        rows.append({**row, **_one(described, shape, fields, repeats, peak)})
        print(_row(rows[-1]), flush=True)
  return {
    "device": jax.devices()[0].device_kind,
    "matmul_flops": peak,
    "rows": rows,
  }


def _one(
  described: LlavaConfig,
  shape: Shape,
  fields: dict[str, Any],
  repeats: int,
  peak: float,
) -> dict[str, Any]:
  """Speed and memory of one config; the reason where it does not fit."""
  try:
    case = ours("", described, shape, fields)
    measure([case], repeats)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return {"error": "out of memory"}
  stats = jax.devices()[0].memory_stats() or {}
  return {
    "seconds": case.median,
    "pairs_per_second": fields["batch_size"] / case.median,
    "mfu": case.flops / case.median / peak,
    "bytes": case.bytes,
    # the largest so far in this process: batches go up
    "peak_bytes_in_use": stats.get("peak_bytes_in_use"),
  }


def usable(described: LlavaConfig) -> list[str]:
  """Backends that run here."""
  found = []
  for name in backends.BACKENDS[1:]:
    try:
      backends.choose(name, described.decoder, jnp.bfloat16)
    except UserError:
      continue
    found.append(name)
  return found


def matmul_flops(size: int = 0) -> float:
  """Measured FLOP/s of a square bfloat16 product."""
  size = size or (8192 if jax.default_backend() != "cpu" else 512)
  x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
  product = jax.jit(lambda a, b: a @ b)
  product(x, x).block_until_ready()
  best = float("inf")
  for _ in range(5):
    start = time.perf_counter()
    y = x
    for _ in range(10):
      y = product(x, y)
    y.block_until_ready()
    best = min(best, (time.perf_counter() - start) / 10)
  return 2 * size**3 / best


def _row(row: dict[str, Any]) -> str:
  head = f"{row['stage']}  {row['attention']:<7} batch {row['batch']:>2}"
  if "error" in row:
    return f"{head}  {row['error']}"
  return (
    f"{head}  {row['pairs_per_second']:8.3f} pairs/s  MFU {row['mfu']:6.1%}"
    f"  {row['bytes'] / 1e9:7.2f} GB compiled"
  )


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="benchmarks.step",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--preset", default="", help="sweep over the shapes of this model")
  add("--device", default="", choices=("", "cpu", "gpu", "tpu"))
  add("--batches", default="1,4,8,16", help="pairs per step, for --preset")
  add("--prefix", type=int, default=0, help="P (704; CPU comparison: 616)")
  add("--branch", type=int, default=0, help="C (256; CPU comparison: 110)")
  add("--rank", type=int, default=128, help="of the adapters, for --preset")
  add("--repeats", type=int, default=5, help="timed steps of each case")
  add("--json", metavar="FILE", help="write the numbers there too")
  args = parser.parse_args(argv)
  found = jax.default_backend()
  if args.device and found != args.device:
    raise UserError(f"--device={args.device}: JAX runs on {found} here")
  if args.preset:
    shape = Shape(args.prefix or 704, args.branch or 256)
    batches = [int(size) for size in args.batches.split(",")]
    described = preset(args.preset)
    result = sweep(described, shape, batches, args.repeats, args.rank)
  else:
    shape = Shape(args.prefix or 616, args.branch or 110)
    result = compare(SMALL, shape, 1, args.repeats)
    for kind in ("seconds", "ratios", "head"):
      print(f"{kind}:")
      for name, value in result[kind].items():
        print(f"  {name:<40}{value:12.4g}")
  if args.json:
    with files.atomic_write(Path(args.json)) as file:
      json.dump({"command": sys.argv, **result}, file, indent=2)
  return 0


if __name__ == "__main__":
  errors.run(main)
