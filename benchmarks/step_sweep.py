"""The accelerator's table: one preset's true shapes, by stage and batch.

Weights are made once on the device and shared by all cases. Cases come in
waves, the ones most worth knowing first: a wave is compiled in parallel
threads and only then timed, as the compiler tries kernels on the device. Each
row is printed and written as soon as it is there.

A row's MFU is its required FLOPs over its seconds and `matmul_flops`. Required
are the matrix products of one step of this shape, forward and backward,
without what is done again for want of memory, without pairs of tokens that the
attention mask closes, and without gradients of frozen weights; norms, softmax
and the optimizer count for nothing. `matmul_flops` is the fastest of several
square bfloat16 products here.
"""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import backend_check, released_step
from benchmarks.device import busiest_kernels, matmul_flops
from benchmarks.step_cases import (
  Case,
  compiled_bytes,
  lengths_of,
  random_arrays,
  random_batch,
  single_mesh,
  step_of,
)
from benchmarks.step_rows import STAGES, What
from povid_jax import files
from povid_jax.models.config import LlavaConfig
from povid_jax.plan.abstract import Shape, abstract_arguments
from povid_jax.training import build
from povid_jax.training.accounting import step_flops
from povid_jax.training.step import Frozen, State

THREAD = "compiles a step"
_FLOAT8 = "__cublas$lt$matmul$f8"  # as the text of a program for a GPU has it


class Sweep:
  """Cases of one preset over one set of weights.

  Args:
    described: dimensions.
    shape: P, C and pictures of every pair.
    rank: of the adapters.
    head_chunk: config.head_chunk of every case.
    repeats: timed steps of each case.
    deadline: time.monotonic() after which nothing new is begun.
    out: where the JSON goes after every row, or None.
  """

  def __init__(
    self,
    described: LlavaConfig,
    shape: Shape,
    *,
    rank: int,
    head_chunk: int,
    repeats: int,
    deadline: float,
    out: Path | None,
  ):
    self.described, self.shape = described, shape
    self.common = {"lora.rank": rank, "head_chunk": head_chunk}
    self.repeats, self.deadline, self.out = repeats, deadline, out
    self.mesh = single_mesh()
    self.state: State | None = None
    self.frozen: Frozen | None = None
    self.best: Case | None = None  # of the rows so far, for `details`
    device = jax.devices()[0]
    self.peak = matmul_flops()
    self.result: dict[str, Any] = {
      "device": device.device_kind,
      "memory": (device.memory_stats() or {}).get("bytes_limit"),
      "jax": jax.__version__,
      "matmul_flops": self.peak,
      "prefix": shape.prefix,
      "branch": shape.branch,
      **self.common,
      "rows": [],
    }

  @property
  def left(self) -> float:
    """Seconds until the deadline."""
    return self.deadline - time.monotonic()

  def note(self, **more: Any) -> None:
    """Writes the rows measured so far."""
    self.result |= more
    if self.out:
      with files.atomic_write(self.out) as file:
        json.dump(self.result, file, indent=2)

  def run(self, wave: Sequence[What], check: str = "") -> None:
    """Compiles a wave, then times it; a row for each case.

    Args:
      check: a backend to compare with `xla` while the wave compiles, or "".
    """
    work: list[Callable[[], Any]] = [
      lambda what=what: self.compile(what) for what in wave
    ]
    if check:
      work.append(lambda: self.check(check))
    found = _in_threads(work, self.deadline)[: len(wave)]
    for what, compiled in zip(wave, found, strict=True):
      if compiled is None or self.left < 0:
        row = {"error": "not run: the budget is spent"}
      elif isinstance(compiled, Exception):
        row = {"error": _reason(compiled)}
      else:
        row = self.time(what, *compiled)
      self.result["rows"].append({**dataclasses.asdict(what), **row})
      print(f"{what}  {_cells(row)}", flush=True)
      self.note()

  def check(self, backend: str) -> None:
    """Notes whether a backend computes what `xla` does."""
    checked = backend_check.check(backend)
    self.note(check={backend: checked})
    for variant, numbers in checked.items():
      print(f"{backend} against xla, {variant}: {numbers}", flush=True)

  def compile(self, what: What) -> tuple[Case, float]:
    """The case, without weights, and the seconds it took to compile."""
    start = time.monotonic()
    config, sketch, step = step_of(
      self.described,
      {
        **self.common,
        "objective.name": STAGES[what.stage],
        "batch_size": what.batch,
        "attention": what.attention,
        "remat": what.remat,
        "reference": what.reference,
        "share_prefix": what.work != "plain",
        "matmul": what.matmul,
      },
    )
    parts = (config, self.described, sketch, step)
    structs = abstract_arguments(*parts, self.mesh, self.shape)
    lengths = lengths_of(self.shape, self.described, step)
    work = step_flops(*parts, **lengths, masked=False).total
    run: Callable = step
    if what.work == "released":
      run = released_step.make(step)
      repeated = jax.eval_shape(released_step.repeat_images, structs[2])
      structs = (*structs[:2], repeated)
    with jax.set_mesh(self.mesh):
      lowered = jax.jit(run, donate_argnums=0).lower(*structs)
      compiled = lowered.compile()
    case = Case(
      name=str(what),
      run=compiled,
      bytes=compiled_bytes(compiled),
      flops=work.model,
      structs=structs,
      step=step,
    )
    return case, time.monotonic() - start

  def time(self, what: What, case: Case, seconds: float) -> dict[str, Any]:
    """Speed and memory of one case; the reason where it does not run."""
    row: dict[str, Any] = {"bytes": case.bytes, "compile_seconds": seconds}
    if what.matmul == "fp8":  # none: the compiler made something else of them
      row["float8_products"] = case.run.as_text().count(_FLOAT8)
    room = self.result["memory"]
    if room and case.bytes > room:
      return {**row, "error": "out of memory: more than the device has"}
    try:
      self._prepare(case)
      case.once()  # the first call allocates; its kernels are loaded
      if case.once() < 0.3:
        case.once()
      case.seconds = [case.once() for _ in range(self.repeats)]
    except jax.errors.JaxRuntimeError as error:
      return {**row, "error": _reason(error)}
    finally:
      self._take_back(case)
    if self.best is None or case.rate > self.best.rate:
      self.best = case
    stats = jax.devices()[0].memory_stats() or {}
    return {
      **row,
      "seconds": case.median,
      "all_seconds": case.seconds,
      "pairs_per_second": what.batch / case.median,
      "required_flops": case.flops,
      "mfu": case.rate / self.peak,
      # of this process so far, whatever the row
      "peak_bytes_in_use": stats.get("peak_bytes_in_use"),
    }

  def _prepare(self, case: Case) -> None:
    state, frozen, batch = case.structs
    dtypes = lambda tree: jax.tree.map(lambda x: x.dtype, tree)
    if self.frozen is None or dtypes(self.frozen) != dtypes(frozen):
      self.frozen = None  # the device may not hold both
      self.frozen = random_arrays(frozen)
    if self.state is None:
      params = random_arrays(state.params)
      self.state = build.init_state(case.step, params, self.mesh)
    assert self.frozen is not None  # a type checker loses track of it
    case.state, case.frozen, self.state = self.state, self.frozen, None
    case.batch = random_batch(batch, self.described)

  def _take_back(self, case: Case) -> None:
    """The state, unless a step that failed has taken it with it."""
    leaves = jax.tree.leaves(case.state)
    if not any(leaf.is_deleted() for leaf in leaves):
      self.state = case.state
    case.forget()

  def details(self, folder: Path) -> None:
    """The compiled program of the best case, and what its kernels take."""
    case = self.best
    if case is None:
      return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "step.hlo.txt").write_text(case.run.as_text())
    self._prepare(case)
    try:
      table = busiest_kernels(case.once)
    except Exception as error:  # a profiler that does not work here
      print(f"no trace: {error!r:.300}", flush=True)
      return
    finally:
      self._take_back(case)
    with files.atomic_write(folder / "kernels.json") as file:
      json.dump({"case": case.name, "kernels": table}, file, indent=1)
    print(f"kernels of {case.name}")
    for name, milliseconds, count in table[:25]:
      print(f"  {milliseconds:9.2f} ms {count:6} x {name[:90]}", flush=True)


def _in_threads(work: list[Callable[[], Any]], deadline: float) -> list[Any]:
  """Results or exceptions of the calls; None where time ran out.

  Threads of our own, as an executor's would be waited for at exit.
  """
  found: list[Any] = [None] * len(work)
  places = threading.Semaphore(min(8, os.cpu_count() or 1))

  def one(index: int) -> None:
    with places:
      if time.monotonic() > deadline:
        return
      try:
        found[index] = work[index]()
      except Exception as error:
        found[index] = error

  threads = [
    threading.Thread(target=one, args=(index,), name=THREAD, daemon=True)
    for index in range(len(work))
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(max(0.0, deadline - time.monotonic()))
  return list(found)


def _reason(error: Exception) -> str:
  if "RESOURCE_EXHAUSTED" in str(error):
    return "out of memory"
  lines = str(error).splitlines() or [repr(error)]
  return f"{type(error).__name__}: {lines[0][:200]}"


def _cells(row: dict[str, Any]) -> str:
  size = f"{row['bytes'] / 1e9:7.2f} GB" if "bytes" in row else ""
  if "error" in row:
    return f"{row['error']}  {size}"
  return (
    f"{row['pairs_per_second']:8.3f} pairs/s  MFU {row['mfu']:6.1%}  {size}"
    f"  (compiled in {row['compile_seconds']:.0f} s)"
    + (
      f"  float8 products: {row['float8_products']}"
      if "float8_products" in row
      else ""
    )
  )
