"""How fast a training step is, against what it could have been.

  python -m benchmarks.step                      on this machine's CPU
  python -m benchmarks.step --preset llava-1.5-7b --device gpu
  python -m benchmarks.step --head               memory of the scoring head
  python -m benchmarks.step --grouped            several pairs of one question
  python -m benchmarks.step --tiles              prompts as long as LLaVA-NeXT's
  python -m benchmarks.step ... --json FILE

On a CPU: a pair of a picture (576 tokens), a question of 40 and two answers of
110 tokens, decoder of width 512 with 8 layers, in float32. The shared step
against the plain one (image and question once per answer), with and without
cached reference, and the whole stage 2 step against the released algorithm's
amount of work (benchmarks/released_step.py); and shared against plain where a
picture of 640x480 pixels becomes 5 tiles and 2,340 tokens, as LLaVA-NeXT has
it. With --grouped: three questions with 4 pairs each, a row for each pair and a
row for each question (`data_gen write --pairs-per-row 4`), the pairs of a
question with one chosen answer and with four. Medians of steps run in turns.

On a GPU: the true shapes of a preset with random bfloat16 weights, stages 1 and
2, each attention backend, by batch: pairs/s, MFU (required FLOPs over the
measured speed of a bfloat16 matrix product) and memory as compiled; see
benchmarks/step_sweep.py. First each backend is checked against `xla`.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import device, released_step, step_rows, step_sweep
from benchmarks.step_cases import Case, measure, other, ours, with_pairs
from povid_jax import errors, files
from povid_jax.errors import UserError
from povid_jax.models.config import DecoderConfig, LlavaConfig, VisionConfig
from povid_jax.models.presets import preset
from povid_jax.models.scoring import token_logps
from povid_jax.plan.abstract import Shape

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
NEXT = dataclasses.replace(SMALL, layout=preset("llava-next-7b").layout)
_COMMON = {
  "lora.rank": 16,
  "lora.alpha": 32.0,
  "lr": 1e-6,
  "dtype": "float32",
  "remat": "none",
  "attention": "xla",
}


def compare(
  described: LlavaConfig, shape: Shape, batch: int, repeats: int
) -> dict[str, Any]:
  """The CPU's table: seconds of each step and their ratios."""
  common = {**_COMMON, "batch_size": batch}
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


def grouped(
  described: LlavaConfig,
  shape: Shape,
  repeats: int,
  questions: int = 1,
  pairs: int = 4,
) -> dict[str, dict[str, float]]:
  """Pairs of a question as rows of their own, and as one row: with the same
  chosen answer, and with a chosen answer for each pair."""

  def case(name: str, rows: int, pairs: int, chosen: int) -> Case:
    fields = {**_COMMON, "objective.name": "dpo", "batch_size": rows}
    widen = lambda batch: with_pairs(batch, pairs, chosen)
    return other(name, described, shape, fields, lambda step: step, widen)

  count = questions * pairs
  apart, *joined = cases = [
    case("a row each", count, 1, 1),
    case(f"{pairs} a row, one chosen", questions, pairs, 1),
    case(f"{pairs} a row, {pairs} chosen", questions, pairs, pairs),
  ]
  measure(cases, repeats)
  found = {}
  for one in joined:
    each = sorted(
      slow / fast for slow, fast in zip(apart.seconds, one.seconds, strict=True)
    )
    found[f"{one.name}, against a row each"] = apart.median / one.median
    found[f"{one.name}, least of all turns"] = each[0]
    found[f"{one.name}, greatest of all turns"] = each[-1]
  return {
    "seconds": {case.name: case.median for case in cases},
    "pairs/s": {case.name: count / case.median for case in cases},
    "ratios": found,
  }


def tiled(
  described: LlavaConfig, shape: Shape, repeats: int
) -> dict[str, dict[str, float]]:
  """Shared against plain where prompts are long: a picture and 40 tokens."""
  prefix = shape.room(described).tokens + 40
  fields = {**_COMMON, "objective.name": "dpo", "reference": "cached"}
  cases = [
    ours(
      name,
      described,
      shape._replace(prefix=prefix),
      {**fields, "batch_size": 1, "share_prefix": name == "shared"},
    )
    for name in ("shared", "plain")
  ]
  measure(cases, repeats)
  seconds = {f"{case.name}, 5 tiles": case.median for case in cases}
  shared, plain = (case.median for case in cases)
  return {
    "seconds": seconds,
    "ratios": {"shared against plain": plain / shared},
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
    return token_logps(head, hidden[None], ids[None]).sum()

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


def sweep(described: LlavaConfig, args: argparse.Namespace) -> None:
  """Checks the backends, then times every stage, batch and backend."""
  deadline = time.monotonic() + args.budget
  runner = step_sweep.Sweep(
    described,
    Shape(args.prefix or 704, args.branch or 256),
    rank=args.rank,
    head_chunk=args.head_chunk,
    repeats=args.repeats,
    deadline=deadline,
    out=Path(args.json) if args.json else None,
  )
  found = runner.result
  print(f"{found['device']}: bfloat16 product {runner.peak / 1e12:.1f} TFLOP/s")
  usable = device.usable(described)
  check = usable[0] if len(usable) > 1 and not args.no_check else ""
  batches = [int(size) for size in args.batches.split(",")]
  for wave in step_rows.waves(batches, usable):
    wave = [what for what in wave if re.search(args.only, str(what))]
    runner.run(wave, check)
    check = ""
    if args.details and runner.left > 60:
      runner.details(Path(args.details))
      args.details = ""


def _leave_unfinished() -> None:
  """Ends the process at once if a compilation outlived the budget."""
  names = [thread.name for thread in threading.enumerate()]
  if step_sweep.THREAD in names:
    sys.stdout.flush()
    os._exit(0)


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="benchmarks.step",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--preset", default="", help="measure the shapes of this model")
  add("--device", default="", choices=("", "cpu", "gpu", "tpu"))
  add("--batches", default="1,4,8,16", help="pairs per step, for --preset")
  add("--prefix", type=int, default=0, help="P (704; CPU comparison: 616)")
  add("--branch", type=int, default=0, help="C (256; CPU comparison: 110)")
  add(
    "--rank", type=int, default=128, help="rank of the adapters, for --preset"
  )
  add("--head-chunk", type=int, default=1024, help="rows, for --preset")
  add("--repeats", type=int, default=5, help="timed steps of each case")
  add(
    "--budget",
    type=float,
    default=3600.0,
    help="time budget in seconds, for --preset",
  )
  add("--only", default="", help="regex: only rows that match, for --preset")
  add(
    "--details",
    metavar="DIR",
    help="folder for the program and kernels of the best row",
  )
  add("--no-check", action="store_true", help="do not check the backends")
  add("--head", action="store_true", help="measure only the memory of the head")
  add(
    "--grouped", action="store_true", help="measure only pairs of one question"
  )
  add("--tiles", action="store_true", help="only a picture in 5 tiles")
  add("--json", metavar="FILE", help="also write the numbers to this file")
  args = parser.parse_args(argv)
  found = jax.default_backend()
  if args.device and found != args.device:
    raise UserError(f"--device={args.device}: JAX runs on {found} here")
  if args.preset:
    sweep(preset(args.preset), args)
    _leave_unfinished()
    return 0
  shape = Shape(args.prefix or 616, args.branch or 110)
  if args.head:
    result: dict[str, Any] = {"head": head_memory()}
  elif args.grouped:
    result = grouped(SMALL, shape, args.repeats, questions=3)
  elif args.tiles:
    result = tiled(NEXT, shape, args.repeats)
  else:
    result = compare(SMALL, shape, 1, args.repeats)
    for name, more in (
      ("several pairs of one question", grouped(SMALL, shape, args.repeats)),
      ("a picture in 5 tiles", tiled(NEXT, shape, args.repeats)),
    ):
      result[name] = more["ratios"]
  for kind, numbers in result.items():
    print(f"{kind}:")
    for name, value in numbers.items():
      print(f"  {name:<40}{value:12.4g}")
  if args.json:
    with files.atomic_write(Path(args.json)) as file:
      json.dump({"command": sys.argv, **result}, file, indent=2)
  return 0


if __name__ == "__main__":
  errors.run(main)
