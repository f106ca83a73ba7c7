"""The config and the command of a small run."""

import os
import subprocess
import sys
from pathlib import Path

from povid_jax import train
from tests import small_world
from tests.forks import Forks

ROOT = Path(train.__file__).parents[1]
STEPS = 6


def config(world, **fields):
  fields = {
    "steps": STEPS,
    **{k.replace("__", "."): v for k, v in fields.items()},
  }
  return small_world.config(world / "model", world / "data", fields)


def flags(devices):
  """The options of these tests for XLA, with so many devices."""
  count = f"--xla_force_host_platform_device_count={devices}"
  return f"{os.environ['XLA_FLAGS']} {count}"  # the last one counts


def forks(cache, log):
  """Runs of the commands that a kill must not harm, compiled in `cache`.

  Args:
    log: see `Forks`.
  """
  modules = """
    povid_jax.train povid_jax.eval.__main__ povid_jax.convert data_gen.__main__
    data_gen.inject data_gen.injectors.sample data_gen.injectors.rules
    data_gen.write
  """.split()
  env = {
    **os.environ,
    "XLA_FLAGS": flags(devices=1),
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  # a reference pass is kept after every batch
  prepare = (
    "from povid_jax.training import reference_part\n"
    "reference_part.SECONDS = 0.0"
  )
  return Forks(modules, log, env=env, prepare=prepare)


def command(*argv, devices=1, env=None, output=subprocess.PIPE, **options):
  """A process of the command with its own devices."""
  env = {
    **os.environ,
    "XLA_FLAGS": flags(devices),
    "JAX_PLATFORMS": "cpu",
    **(env or {}),
  }
  return subprocess.Popen(
    [sys.executable, "-m", "povid_jax.train", *map(str, argv)],
    cwd=ROOT,
    env=env,
    stdout=output,
    stderr=output,
    text=True,
    **options,
  )
