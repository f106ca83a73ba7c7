"""Intervals and paired tests against closed forms and scipy."""

import numpy as np
import pytest

from povid_jax.eval import bootstrap, protocol
from povid_jax.eval.protocol import Benchmark, Options, ratio


def _rate(totals, options):
  yield "rate", ratio(totals["right"], totals["n"])


RATE = Benchmark("rate", "Rate", (), _rate)


def _units(values):
  return {str(i): {"n": 1, "right": v} for i, v in enumerate(values)}


def test_interval_of_a_rate_is_the_normal_one():
  units = _units([1.0] * 300 + [0.0] * 700)
  found = bootstrap.intervals(RATE, units, Options(), 4000)["rate"]
  error = np.sqrt(0.3 * 0.7 / 1000)
  assert found.value == 0.3
  # 4000 replicates: the quantile's own error is about 0.04 standard errors
  assert abs(found.low - (0.3 - 1.96 * error)) < 0.15 * error
  assert abs(found.high - (0.3 + 1.96 * error)) < 0.15 * error


def test_units_are_resampled_not_items():
  """Ten answers about one picture are one piece of evidence."""
  grouped = {str(i): {"n": 10, "right": 10 * (i % 2)} for i in range(100)}
  found = bootstrap.intervals(RATE, grouped, Options(), 2000)["rate"]
  assert found.high - found.low == pytest.approx(
    2 * 1.96 * np.sqrt(0.25 / 100), rel=0.1
  )


def test_order_of_units_does_not_matter():
  units = _units([1.0, 0.0, 1.0, 1.0])
  turned = dict(reversed(units.items()))
  assert bootstrap.intervals(RATE, units, Options(), 50) == (
    bootstrap.intervals(RATE, turned, Options(), 50)
  )


def test_constant_data_has_no_spread_and_no_units_no_metrics():
  found = bootstrap.intervals(RATE, _units([1.0] * 5), Options(), 20)["rate"]
  assert (found.low, found.high) == (1, 1)
  assert bootstrap.intervals(RATE, {}, Options(), 20) == {}


def test_paired_agrees_with_the_paired_t_test():
  rng = np.random.default_rng(0)
  a = (rng.random(400) < 0.5).astype(float)
  b = np.where(rng.random(400) < 0.8, a, (rng.random(400) < 0.6).astype(float))
  found = bootstrap.paired(RATE, _units(a), _units(b), Options(), 20_000)[
    "rate"
  ]
  from scipy.stats import ttest_rel  # two seconds for every worker

  expected = ttest_rel(b, a)
  interval = expected.confidence_interval()
  assert found.value == pytest.approx(b.mean() - a.mean())
  assert found.low == pytest.approx(interval.low, abs=0.003)
  assert found.high == pytest.approx(interval.high, abs=0.003)
  assert found.p == pytest.approx(expected.pvalue, abs=0.01)


def test_paired_runs_that_are_equal_do_not_differ():
  units = _units([1.0, 0.0, 1.0])
  found = bootstrap.paired(RATE, units, units, Options(), 100)["rate"]
  assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_paired_uses_the_units_that_both_have():
  a, b = _units([1.0, 1.0, 0.0]), _units([1.0, 1.0])
  found = bootstrap.paired(RATE, a, b, Options(), 100)["rate"]
  assert (found.a, found.b) == (1, 1)
  assert bootstrap.paired(RATE, a, {}, Options(), 100) == {}


@pytest.mark.parametrize("pair", [(0, 0), (0, 5), (7, 2), (40, 60), (300, 200)])
def test_mcnemar_is_the_binomial_test(pair):
  a, b = pair
  from scipy.stats import binomtest

  expected = binomtest(a, a + b).pvalue if a + b else 1.0
  assert bootstrap.mcnemar(a, b) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_changes_does_not_overflow():
  assert bootstrap.mcnemar(5000, 6000) < 1e-15


def test_ratio_of_nothing_is_zero():
  found = ratio(np.array([1.0, 0.0, 3.0]), np.array([2.0, 0.0, 0.0]))
  assert found.tolist() == [0.5, 0, 0]
  assert protocol.f1(np.zeros(1), np.zeros(1)).tolist() == [0]


def test_n_behind_a_metric():
  totals = {k: np.array([v]) for k, v in {"n": 9, "a/n": 4, "a/b/n": 2}.items()}
  names = ("x", "a/c", "a/b", "q/r")
  assert [protocol.items(totals, n) for n in names] == [9, 4, 2, 9]
