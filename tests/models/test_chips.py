"""Accelerators by name."""

import pytest

from povid_jax.models import chips


@pytest.mark.parametrize(
  ("kind", "want"),
  [
    ("NVIDIA A100-SXM4-80GB", 312e12),
    ("NVIDIA H100 80GB HBM3", 989e12),
    ("NVIDIA H200", 989e12),
    ("NVIDIA L40S", 362e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5p", 459e12),
    ("TPU v5", 459e12),
    ("TPU v6 lite", 918e12),
    ("cpu", None),
    ("NVIDIA GeForce RTX 4090", 165e12),
    ("NVIDIA H100 NVL", 835e12),
    ("NVIDIA A10G", 70e12),
    ("NVIDIA L4", 121e12),
    ("NVIDIA RTX 6000 Ada Generation", 364e12),
  ],
)
def test_peak_flops(kind, want):
  assert chips.peak_flops(kind) == want


def test_a_card_of_a_size_is_the_slowest_of_it():
  wanted = {141: "h200", 94: "h100-nvl", 80: "a100-80", 48: "a6000",
            40: "a100-40", 24: "a10", 16: "a10"}  # fmt: skip
  assert {size: chips.by_memory(size) for size in wanted} == wanted
