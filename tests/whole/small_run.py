"""The config and the command of a small run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def other_machine(folder):
  """What to put before a command, so that JAX takes it for another machine's.

  JAX tells machines apart by the id of their boot; the command sees another
  one. Skips the test where this needs rights that the user has not.
  """
  boot = folder / "boot_id"
  boot.write_text("00000000-0000-4000-8000-000000000001\n")
  swap = f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"'
  prefix = ("unshare", "--mount", "sh", "-c", swap, "sh")
  try:
    allowed = subprocess.run([*prefix, "true"], capture_output=True)
  except FileNotFoundError:
    pytest.skip("no `unshare` here")
  if allowed.returncode:
    pytest.skip(f"no second machine here: {allowed.stderr.decode().strip()}")
  return prefix


def command(
  *argv, devices=1, env=None, output=subprocess.PIPE, prefix=(), **options
):
  """A process of the command with its own devices."""
  env = {
    **os.environ,
    "XLA_FLAGS": flags(devices),
    "JAX_PLATFORMS": "cpu",
    **(env or {}),
  }
  return subprocess.Popen(
    [*prefix, sys.executable, "-m", "povid_jax.train", *map(str, argv)],
    cwd=ROOT,
    env=env,
    stdout=output,
    stderr=output,
    text=True,
    **options,
  )
