"""Settings that every test shares; set before JAX is imported."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# most of the time of these tests is compilation: half of it is saved
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
