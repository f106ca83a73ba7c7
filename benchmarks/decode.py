"""Decoding: tokens per second, and what N answers of one prompt cost.

  python -m benchmarks.decode [--new-tokens 64] [--repeats 5] [--preset NAME]

Without --preset: a decoder of width 512 with 8 layers and 32,000 tokens, in
float32. Prompts have 576 image and 40 text tokens, weights are random, nobody
stops early. Alternating in one process: eight prompts with one answer each, and
one prompt with eight answers. Printed are medians of wall seconds and of CPU
seconds of this process, which a busy machine disturbs less, for prefill and for
the loop over tokens. The limit of a step is the time in which the decoder's
weights and the keys and values cross the memory bus, at the bandwidth that a
sum over an array in this process reaches.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from povid_jax import errors
from povid_jax.generate import slots as slots_lib
from povid_jax.generate.decode import Decoding
from povid_jax.generate.slots import Stops
from povid_jax.models import params as params_lib
from povid_jax.models.config import DecoderConfig, LlavaConfig, VisionConfig
from povid_jax.models.llava import IMAGE_TOKEN
from povid_jax.models.params import Params
from povid_jax.models.presets import preset

MODEL = LlavaConfig(
  vision=VisionConfig(
    hidden_size=64, intermediate_size=128, num_layers=2, num_heads=2
  ),
  decoder=DecoderConfig(
    hidden_size=512,
    intermediate_size=1376,
    num_layers=8,
    num_heads=8,
    num_kv_heads=8,
    head_dim=64,
  ),
)
ANSWERS = 8
TEXT = 40  # tokens of a prompt beside its picture
NEVER = Stops((10**6,))  # a token that no model writes


def _clock(work: Callable[[], Any]) -> tuple[float, float, Any]:
  """Wall seconds, CPU seconds, and what came out."""
  wall, cpu = time.perf_counter(), time.process_time()
  out = jax.block_until_ready(work())
  return time.perf_counter() - wall, time.process_time() - cpu, out


def random_params(described: LlavaConfig, dtype: Any = jnp.float32) -> Params:
  """Small random weights."""
  _, shapes = params_lib.abstract(described)

  def one(index: int, path: str, shape: tuple[int, ...]) -> jax.Array:
    if path.endswith("scale"):
      return jnp.ones(shape, dtype)
    key = jax.random.key(index)
    return (0.05 * jax.random.normal(key, shape)).astype(dtype)

  make = jax.jit(one, static_argnums=(1, 2))
  return {
    path: make(index, path, leaf.shape)
    for index, (path, leaf) in enumerate(shapes.items())
  }


def bandwidth() -> float:
  """Bytes/s at which a sum reads an array that no cache holds."""
  size = 2**28 if jax.default_backend() == "cpu" else 2**30
  total = jax.jit(jnp.sum)
  x = jnp.zeros(size // 4)
  total(x).block_until_ready()
  return size / min(_clock(lambda: total(x))[0] for _ in range(10))


def step_bytes(case: "Case") -> int:
  """Bytes that one step of all branches must read, own keys half written."""
  weights = sum(
    leaf.nbytes
    for path, leaf in case.params.items()
    if path.startswith("decoder/") and "embed_tokens" not in path
  )
  size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  return weights + size(case.state.prefix) + size(case.state.own) // 2


class Case:
  """Prompts with N answers each, ready to be run again and again."""

  def __init__(
    self,
    described: LlavaConfig,
    prompts: int,
    answers: int,
    new_tokens: int,
    params: Params,
  ):
    dtype = params["decoder/norm/scale"].dtype
    self.graph, _ = params_lib.abstract(described, dtype=dtype)
    self.params = params
    random = np.random.default_rng(0)
    length = described.image_tokens + TEXT
    self.ids = np.full((prompts, length), IMAGE_TOKEN, np.int32)
    most = min(30000, described.decoder.vocab_size - 1)
    self.ids[:, described.image_tokens :] = random.integers(
      3, most, (prompts, TEXT)
    )
    assert isinstance(described.vision, VisionConfig)  # square pictures
    side = described.vision.image_size
    self.pictures = random.integers(0, 256, (prompts, side, side, 3), np.uint8)
    seeds = np.arange(prompts * answers, dtype=np.uint32)
    how = dict(decoding=Decoding(max_new_tokens=new_tokens), stops=NEVER)
    self.state: slots_lib.Slots = slots_lib.empty(
      self.graph,
      self.params,
      np.zeros(2, np.uint32),
      slots=prompts,
      branches=answers,
      prefix=length,
      length=new_tokens,
    )
    self._admit = functools.partial(
      slots_lib.admit,
      at=np.arange(prompts),
      prefix_ids=self.ids,
      prefix_len=np.full(prompts, length, np.int32),
      pictures=self.pictures[:, None],
      seeds=seeds.reshape(prompts, answers),
      **how,
    )
    self._advance = functools.partial(
      slots_lib.advance, wanted=jnp.int32(prompts), **how
    )

  def run(self) -> tuple[float, float, float, float]:
    """Wall and CPU seconds of the prefill, then of the tokens."""
    weights = (self.graph, self.params)
    first = _clock(lambda: self._admit(*weights, self.state))
    second = _clock(lambda: self._advance(*weights, first[2]))
    self.state = second[2]
    return *first[:2], *second[:2]

  def seconds(self) -> float:
    """Wall seconds of all."""
    found = self.run()
    return found[0] + found[2]

  def prefill_seconds(self) -> float:
    return self.run()[0]

  def tokens(self) -> np.ndarray:
    """int[prompts, new_tokens] of the first answers."""
    self.run()
    return np.asarray(self.state.out)[:, 0]


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="benchmarks.decode",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--new-tokens", type=int, default=64)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument(
    "--preset", default="", help="name of the model's dimensions"
  )
  args = parser.parse_args(argv)
  described = preset(args.preset) if args.preset else MODEL
  on_cpu = jax.default_backend() == "cpu"
  params = random_params(described, jnp.float32 if on_cpu else jnp.bfloat16)
  cases = {
    f"{prompts} prompts, {ANSWERS // prompts} answers each": Case(
      described, prompts, ANSWERS // prompts, args.new_tokens, params
    )
    for prompts in (ANSWERS, 1)
  }
  for case in cases.values():  # compiles
    case.run()
  found = {name: [] for name in cases}
  for _ in range(args.repeats):
    for name, case in cases.items():
      found[name].append(case.run())
  print(f"{args.new_tokens} new tokens, medians of {args.repeats} runs")
  total = []
  fastest = bandwidth()
  for name, rows in found.items():
    a, b, c, d = (
      statistics.median(column) for column in zip(*rows, strict=True)
    )
    total.append((a + c, b + d))
    print(
      f"{name}: prefill {a:.2f} s ({b:.2f} CPU), tokens {c:.2f} s "
      f"({d:.2f} CPU), "
      f"{ANSWERS * args.new_tokens / (a + c):.0f} tokens/s"
    )
    limit = step_bytes(cases[name]) / fastest
    step = c / max(1, args.new_tokens - 1)
    print(
      f"  a step: {1e3 * step:.1f} ms, limit {1e3 * limit:.1f} ms at "
      f"{fastest / 1e9:.1f} GB/s ({limit / step:.0%})"
    )
  wall, cpu = (total[1][i] / total[0][i] for i in (0, 1))
  print(
    f"one prompt over eight: {wall:.2f} of the time, {cpu:.2f} of the CPU's"
  )
  return 0


if __name__ == "__main__":
  errors.run(main)
