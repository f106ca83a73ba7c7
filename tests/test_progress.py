"""Numbers that a person reads keep the digits that count."""

import pytest

from povid_jax.eval import benchmarks, bootstrap, compare
from povid_jax.progress import digits
from povid_jax.report import charts
from povid_jax.training import metrics


@pytest.mark.parametrize(
  "value, decimals, shown",
  [
    (0.5, 4, "0.5000"),
    (0.0, 4, "0.0000"),
    (0.00123, 4, "0.0012"),
    (1e-7, 4, "1.0e-07"),
    (-3.21e-5, 4, "-3.2e-05"),
    (12.345, 2, "12.35"),
    (0.004, 2, "4.0e-03"),
  ],
)
def test_no_number_is_rounded_to_nothing(value, decimals, shown):
  assert digits(value, decimals) == shown


def test_a_tiny_learning_rate_and_margin_are_seen_everywhere():
  row = {"loss": 3e-6, "margin/rejected": 2e-7, "lr": 1e-7}
  line = metrics.line(3, row)
  assert "lr 1e-07" in line and "+2.00e-07" in line and "3.000e-06" in line
  assert charts.number(1e-7) == "1e−7"
  gap = bootstrap.Difference(a=1e-5, b=3e-5, low=1e-5, high=3e-5, p=0.01)
  same = compare.Changed((), (), both=3, neither=0)
  one = compare.Comparison("preference", {"margin": gap}, same, units=3)
  assert "+2.0e-05 [+1.0e-05, +3.0e-05]" in compare.report([one], "a", "b")


@pytest.mark.parametrize("name", benchmarks.MODULES)
def test_every_benchmark_says_what_it_counts(name):
  benchmark = benchmarks.get(name)
  said = benchmark.meanings()
  for column in benchmark.columns:
    metric = column.metric.rpartition("/")[2]
    assert metric in said or name in ("mmvet", "llava_bench"), metric
