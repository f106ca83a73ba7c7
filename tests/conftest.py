"""Settings that every test shares; set before JAX is imported."""

import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# most of the time of these tests is compilation: half of it is saved
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture
def one_device():
  """The test trains or decodes on the first device alone."""
  from tests import small_world  # JAX, whose settings are above

  with small_world.one_device():
    yield
