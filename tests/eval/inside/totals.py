"""Metrics of scored units."""

from povid_jax.eval import protocol
from povid_jax.eval.protocol import Options, Scored


def values(benchmark: protocol.Benchmark, scored: Scored) -> dict[str, float]:
  totals = protocol.total(scored.units)
  found = benchmark.metrics(totals, Options())
  return {name: float(value[0]) for name, value in found}
