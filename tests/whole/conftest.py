"""What whole runs share."""

import jax
import pytest

from tests import small_world


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
  """Runs of one config share what was compiled."""
  folder = tmp_path_factory.mktemp("compiled")
  before = {
    "jax_compilation_cache_dir": jax.config.jax_compilation_cache_dir,
    "jax_persistent_cache_min_compile_time_secs": (
      jax.config.jax_persistent_cache_min_compile_time_secs
    ),
  }
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  yield folder
  for name, value in before.items():
    jax.config.update(name, value)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  return small_world.folders(tmp_path_factory.mktemp("train"), 10)
