"""What whole runs share."""

from pathlib import Path

import jax
import pytest

from tests import small_world


@pytest.fixture(scope="session")
def compiled_once() -> Path:
  """The folder of what was compiled, for runs in processes of their own."""
  return Path(jax.config.jax_compilation_cache_dir)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  return small_world.folders(tmp_path_factory.mktemp("train"), 10)
