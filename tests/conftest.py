"""Settings that every test shares; set before JAX is imported."""

import atexit
import os
import shutil
import tempfile

import pytest

if hasattr(os, "sched_setaffinity") and "PYTEST_XDIST_WORKER" in os.environ:
  # One core for each worker: XLA starts a thread per core that it sees, and
  # threads of two workers that wait for each other's core cost more than they
  # bring.
  _cores = sorted(os.sched_getaffinity(0))
  _worker = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
  os.sched_setaffinity(0, {_cores[_worker % len(_cores)]})

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# most of the time of these tests is compilation: half of it is saved
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  # Tests trace the same step again and again: the suite compiles it once. The
  # workers inherit the folder from the process that starts them. A greatest
  # size makes JAX lock the folder: without one a reader could meet half an
  # entry.
  _compiled = tempfile.mkdtemp(prefix="povid-compiled-")
  atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
  os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(1 << 33)
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax  # noqa: E402  it reads the settings above

if jax.__version_info__ < (0, 11):
  # a third less to compile; later versions do not know the option
  os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

# Arrays of different ranks are joined only where the code says how.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def one_device():
  """The test trains or decodes on the first device alone."""
  from tests import small_world  # JAX, whose settings are above

  with small_world.one_device():
    yield
