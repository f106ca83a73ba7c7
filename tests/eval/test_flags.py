"""Flags of the evaluation that are read here and not by argparse."""

import pytest

from povid_jax.errors import UserError
from povid_jax.eval import flags


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "²", "x", "", "9" * 10])
def test_a_limit_that_is_no_number(value):
  with pytest.raises(UserError, match="--limit=.*: want a whole number"):
    flags.whole([value], "chair", "--limit")


def test_a_limit_for_one_benchmark():
  values = ["500", "chair=20"]
  assert flags.whole(values, "chair", "--limit") == 20
  assert flags.whole(values, "pope", "--limit") == 500
  assert flags.whole([], "pope", "--limit") is None
