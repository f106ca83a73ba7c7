"""Where a step's time goes on the device: kernels by what they take."""

import collections
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax


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
