"""Benchmarks by name. To add one: write its file, add it to the table."""

from importlib import import_module

from povid_jax.errors import UserError
from povid_jax.evals.protocol import Benchmark

# name on the command line -> module that holds its BENCHMARK
MODULES = {
  "chair": "povid_jax.evals.chair",
  "pope": "povid_jax.evals.pope",
  "mme": "povid_jax.evals.mme",
  "mmbench": "povid_jax.evals.mmbench",
  "scienceqa": "povid_jax.evals.scienceqa",
  "amber": "povid_jax.evals.amber",
  "hallusionbench": "povid_jax.evals.hallusionbench",
  "mmhal": "povid_jax.evals.mmhal",
  "mmvet": "povid_jax.evals.mmvet",
  "llava_bench": "povid_jax.evals.llava_bench",
  "preference": "povid_jax.evals.preference",
  "attention": "povid_jax.evals.attention",
  "noise_sweep": "povid_jax.evals.noise_sweep",
}


def get(name: str) -> Benchmark:
  """The benchmark of that name; UserError lists the names there are."""
  if name not in MODULES:
    raise UserError(
      f"no benchmark is called {name!r}; there are {', '.join(MODULES)}"
    )
  return import_module(MODULES[name]).BENCHMARK
