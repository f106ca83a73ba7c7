"""The shortest time of a step, by hand."""

import pytest

from povid_jax.models.chips import TPUS, Chip
from povid_jax.plan.program import Program
from povid_jax.plan.roofline import roofline

CHIP = Chip(2**30, flops=1e12, bandwidth=1e9, links=1e8)


def _program(**sizes):
  kinds = {name.replace("_", "-"): size for name, size in sizes.items()}
  return Program(dict.fromkeys(kinds, 1), kinds, 0, 0, 0)


def test_the_longest_of_three_is_the_limit():
  found = roofline(CHIP, _program(all_gather=10**7), 5e11, 2e8)
  assert found is not None
  assert (found.arithmetic, found.memory) == (0.5, 0.2)
  assert found.links == pytest.approx(0.1)
  assert (found.seconds, found.limit, found.efficiency) == (
    0.5,
    "arithmetic",
    1.0,
  )
  slow = roofline(CHIP, _program(all_gather=10**8), 5e11, 2e8)
  assert slow is not None
  assert (slow.limit, slow.efficiency) == ("links", 0.5)


def test_what_crosses_the_links():
  """A sum goes round twice: once to add up, once to be told."""
  links = lambda **sizes: roofline(CHIP, _program(**sizes), 0, 0).links
  assert links(all_reduce=10**8) == pytest.approx(2.0)
  assert links(reduce_scatter=10**8) == pytest.approx(1.0)
  assert links(all_to_all=10**8) == pytest.approx(0.25)
  assert links(all_gather=10**8, collective_permute=10**8) == pytest.approx(2)


def test_a_chip_that_is_not_known():
  assert roofline(Chip(2**30), _program(), 1, 1) is None
  assert all(chip.links for chip in TPUS.values())
