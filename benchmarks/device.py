"""The local device: attention backends, speed, and the time of each kernel."""

import collections
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from povid_jax.errors import UserError
from povid_jax.models import backends
from povid_jax.models.config import LlavaConfig


def usable(described: LlavaConfig) -> list[str]:
  """Backends that run here, the one `auto` takes first."""
  found = []
  for name in ("cudnn", "splash", "xla"):
    try:
      backends.choose(name, described.decoder, jnp.bfloat16)
    except UserError:
      continue
    found.append(name)
  return found


def matmul_flops(sizes: Sequence[int] = ()) -> float:
  """Measured FLOP/s of a square bfloat16 product of random numbers."""
  if not sizes:
    sizes = (512,) if jax.default_backend() == "cpu" else (4096, 8192, 16384)
  product = jax.jit(lambda a, b: a @ b)
  best = 0.0
  for size in sizes:
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product(x, x).block_until_ready()
    for _ in range(5):
      start = time.perf_counter()
      y = x
      for _ in range(10):
        y = product(x, y)
      y.block_until_ready()
      seconds = (time.perf_counter() - start) / 10
      best = max(best, 2 * size**3 / seconds)
  return best


def busiest_kernels(run: Callable[[], object]) -> list[tuple[str, float, int]]:
  """(kernel, milliseconds, launches) of one call, most time first.

  Args:
    run: does the work and waits for it.

  Returns:
    Empty where the profiler sees no device, as on a CPU.
  """
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      run()
    traces = sorted(Path(folder).rglob("*.xplane.pb"))
    if not traces:
      return []
    data = jax.profiler.ProfileData.from_file(str(traces[-1]))
    spent: dict[str, float] = collections.defaultdict(float)
    count: dict[str, int] = collections.defaultdict(int)
    for plane in data.planes:
      if not plane.name.startswith("/device:"):
        continue
      for line in plane.lines:
        if not line.name.startswith("Stream"):
          continue  # the same kernels again, by module and source line
        for event in line.events:
          spent[event.name] += event.duration_ns / 1e6
          count[event.name] += 1
  order = sorted(spent, key=lambda name: -spent[name])
  return [(name, spent[name], count[name]) for name in order]
