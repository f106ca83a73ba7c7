"""Decoding: tokens per second, and what N answers of one prompt cost.

  python -m benchmarks.decode [--new-tokens 64] [--repeats 5]

A decoder of width 512 with 8 layers and 32,000 tokens, float32, prompts of 576
image and 40 text tokens, random weights, nobody stops early. Alternating in one
process: eight prompts with one answer each, and one prompt with eight answers.
Printed are medians of wall seconds and of CPU seconds of this process, which a
busy machine disturbs less, for prefill and for the loop over tokens.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence

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


def _clock(work: Callable[[], object]) -> tuple[float, float, object]:
  """Wall seconds, CPU seconds, and what came out."""
  wall, cpu = time.perf_counter(), time.process_time()
  out = jax.block_until_ready(work())
  return time.perf_counter() - wall, time.process_time() - cpu, out


class _Case:
  """Prompts with N answers each, ready to be run again and again."""

  def __init__(self, prompts: int, answers: int, new_tokens: int):
    self.graph, shapes = params_lib.abstract(MODEL)
    random = np.random.default_rng(0)
    self.params = {
      path: jnp.ones(leaf.shape)
      if path.endswith("scale")
      else jnp.asarray(random.normal(0, 0.05, leaf.shape), jnp.float32)
      for path, leaf in shapes.items()
    }
    length = MODEL.image_tokens + TEXT
    ids = np.full((prompts, length), IMAGE_TOKEN, np.int32)
    ids[:, MODEL.image_tokens :] = random.integers(3, 30000, (prompts, TEXT))
    size = 336  # of the tower of CLIP-L/336
    pictures = random.integers(0, 256, (prompts, 1, size, size, 3), np.uint8)
    seeds = np.arange(prompts * answers, dtype=np.uint32)
    how = dict(decoding=Decoding(max_new_tokens=new_tokens), stops=NEVER)
    self.state = slots_lib.empty(
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
      prefix_ids=ids,
      prefix_len=np.full(prompts, length, np.int32),
      pictures=pictures,
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


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="benchmarks.decode",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--new-tokens", type=int, default=64)
  parser.add_argument("--repeats", type=int, default=5)
  args = parser.parse_args(argv)
  cases = {
    f"{ANSWERS} prompts, 1 answer each": _Case(ANSWERS, 1, args.new_tokens),
    f"1 prompt, {ANSWERS} answers": _Case(1, ANSWERS, args.new_tokens),
  }
  for case in cases.values():  # compiles
    case.run()
  found = {name: [] for name in cases}
  for _ in range(args.repeats):
    for name, case in cases.items():
      found[name].append(case.run())
  print(f"{args.new_tokens} new tokens, medians of {args.repeats} runs")
  total = []
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
  wall, cpu = (total[1][i] / total[0][i] for i in (0, 1))
  print(
    f"one prompt over eight: {wall:.2f} of the time, {cpu:.2f} of the CPU's"
  )
  return 0


if __name__ == "__main__":
  errors.run(main)
