"""Intervals and comparisons by resampling units (images) and their counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from povid_jax.eval.protocol import Benchmark, Options

Units = Mapping[str, Mapping[str, float]]

CHUNK = 256  # replicates at once: bounds the memory of [replicates, units]


@dataclass(frozen=True)
class Interval:
  """A value and its 95% percentile interval."""

  value: float
  low: float
  high: float


@dataclass(frozen=True)
class Difference:
  """b - a of one metric on the same resampled units; p is two-sided."""

  a: float
  b: float
  low: float
  high: float
  p: float

  @property
  def value(self) -> float:
    return self.b - self.a


def table(units: Units, order: Sequence[str]) -> tuple[list[str], np.ndarray]:
  """Counts as (names, float64[U, K]), units in the given order."""
  names = sorted({name for counts in units.values() for name in counts})
  column = {name: i for i, name in enumerate(names)}
  counts_UK = np.zeros((len(order), len(names)))
  for row, unit in enumerate(order):
    for name, value in units[unit].items():
      counts_UK[row, column[name]] = value
  return names, counts_UK


def draw(rng: Generator, units: int, resamples: int) -> np.ndarray:
  """How often each unit is drawn in each replicate: float64[R, U]."""
  weights_RU = np.empty((resamples, units))
  for replicate in weights_RU:
    replicate[:] = np.bincount(rng.integers(0, units, units), minlength=units)
  return weights_RU


def _metrics(
  benchmark: Benchmark,
  names: list[str],
  sums_RK: np.ndarray,
  options: Options,
) -> dict[str, np.ndarray]:
  totals = {name: sums_RK[:, i] for i, name in enumerate(names)}
  return {
    name: np.asarray(value, float)
    for name, value in benchmark.metrics(totals, options)
  }


def intervals(
  benchmark: Benchmark, units: Units, options: Options, resamples: int = 1000
) -> dict[str, Interval]:
  """Every metric with its percentile interval over resampled units.

  The order of the units (so of the answers) does not change the result.
  """
  if not units:
    return {}
  order = sorted(units)
  names, counts_UK = table(units, order)
  values = _metrics(benchmark, names, counts_UK.sum(0, keepdims=True), options)
  rng = np.random.default_rng(options.seed)
  replicates: dict[str, list[np.ndarray]] = {name: [] for name in values}
  for start in range(0, resamples, CHUNK):
    weights_RU = draw(rng, len(order), min(CHUNK, resamples - start))
    found = _metrics(benchmark, names, weights_RU @ counts_UK, options)
    for name in values:
      replicates[name].append(found[name])
  result = {}
  for name, value in values.items():
    low = high = value[0]
    if replicates[name]:
      low, high = np.percentile(np.concatenate(replicates[name]), [2.5, 97.5])
    result[name] = Interval(float(value[0]), float(low), float(high))
  return result


def paired(
  benchmark: Benchmark,
  units_a: Units,
  units_b: Units,
  options: Options,
  resamples: int = 10_000,
) -> dict[str, Difference]:
  """b - a of every metric on the units that both have, resampled together."""
  order = sorted(set(units_a) & set(units_b))
  if not order:
    return {}
  names_a, a_UK = table(units_a, order)
  names_b, b_UK = table(units_b, order)
  whole_a = _metrics(benchmark, names_a, a_UK.sum(0, keepdims=True), options)
  whole_b = _metrics(benchmark, names_b, b_UK.sum(0, keepdims=True), options)
  shared = [name for name in whole_a if name in whole_b]
  rng = np.random.default_rng(options.seed)
  gaps: dict[str, list[np.ndarray]] = {name: [] for name in shared}
  for start in range(0, resamples, CHUNK):
    weights_RU = draw(rng, len(order), min(CHUNK, resamples - start))
    found_a = _metrics(benchmark, names_a, weights_RU @ a_UK, options)
    found_b = _metrics(benchmark, names_b, weights_RU @ b_UK, options)
    for name in shared:
      gaps[name].append(found_b[name] - found_a[name])
  return {
    name: difference(
      float(whole_a[name][0]),
      float(whole_b[name][0]),
      np.concatenate(gaps[name]),
    )
    for name in shared
  }


def difference(a: float, b: float, gap_R: np.ndarray) -> Difference:
  """b - a with the interval and p of its replicates.

  p is twice the smaller share of replicates on one side of 0 (each counted with
  one extra replicate, so that it is never 0).

  Args:
    a, b: of the whole.
    gap_R: b - a of every replicate.
  """
  low, high = np.percentile(gap_R, [2.5, 97.5])
  count = len(gap_R) + 1
  below = (1 + np.sum(gap_R <= 0)) / count
  above = (1 + np.sum(gap_R >= 0)) / count
  p = min(1.0, 2 * float(min(below, above)))
  return Difference(a, b, float(low), float(high), p)


def mcnemar(only_a: int, only_b: int) -> float:
  """Exact two-sided McNemar p for items that only a or only b has right."""
  # imported here: it takes a second, and most commands compare nothing
  from scipy.stats import binomtest

  changed = only_a + only_b
  return float(binomtest(only_a, changed).pvalue) if changed else 1.0
