"""Benchmarks by name. To add one: write its file, add it to the table."""

from importlib import import_module

from povid_jax.errors import UserError
from povid_jax.eval.protocol import Benchmark, Flags

# name on the command line -> module that holds its BENCHMARK
MODULES = {
  "chair": "povid_jax.eval.benchmarks.chair",
  "pope": "povid_jax.eval.benchmarks.pope",
  "mme": "povid_jax.eval.benchmarks.mme",
  "mmbench": "povid_jax.eval.benchmarks.mmbench",
  "scienceqa": "povid_jax.eval.benchmarks.scienceqa",
  "object_halbench": "povid_jax.eval.benchmarks.object_halbench",
  "amber": "povid_jax.eval.benchmarks.amber",
  "hallusionbench": "povid_jax.eval.benchmarks.hallusionbench",
  "mmhal": "povid_jax.eval.benchmarks.mmhal",
  "mmvet": "povid_jax.eval.benchmarks.mmvet",
  "llava_bench": "povid_jax.eval.benchmarks.llava_bench",
  "preference": "povid_jax.eval.benchmarks.preference",
  "attention": "povid_jax.eval.benchmarks.attention",
  "noise_sweep": "povid_jax.eval.benchmarks.noise_sweep",
}


def get(name: str) -> Benchmark:
  """The benchmark of that name; UserError lists the known names."""
  if name not in MODULES:
    raise UserError(
      f"there is no benchmark {name!r}; the benchmarks are {', '.join(MODULES)}"
    )
  return import_module(MODULES[name]).BENCHMARK


def flags() -> list[Flags]:
  """The flags of all benchmarks, each set once."""
  found = (get(name).flags for name in MODULES)
  return list(dict.fromkeys(one for one in found if one is not None))
