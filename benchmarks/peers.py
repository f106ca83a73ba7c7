"""Ours and the peers', side by side in one process: `make bench-peers`.

  python -m benchmarks.peers [--repeats 5] [--only train|decode]
  python -m benchmarks.peers --device gpu --preset llava-1.5-7b

Training: TRL's DPOTrainer (fused head, no checkpointing) on a transformers
LLaVA against our stage 1 step with the reference online and cached, on equal
weights, adapters and pairs, in turns. Decoding: transformers.generate against
our slots, eight prompts with a picture each, greedy, the prefill included; and
eight answers of one prompt. Losses must agree to 1e-4 and greedy tokens must be
equal in float32. The numbers go to benchmarks/results.json.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import decode, step_cases
from benchmarks.step import SMALL
from povid_jax import errors, files
from povid_jax.data.batch import Logps
from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig, VisionConfig
from povid_jax.models.llava import IMAGE_TOKEN
from povid_jax.models.presets import preset
from povid_jax.plan.abstract import Shape
from povid_jax.training.step import Frozen

try:
  from benchmarks import peer_torch
except ModuleNotFoundError as error:
  sys.exit(
    f"error: the package {error.name} is not installed here; `make "
    "bench-peers` makes an environment with the peers and runs this in it"
  )

RESULTS = Path(__file__).with_name("results.json")
QUESTION, ANSWER, PROMPTS = 40, 110, 8
LORA = {"rank": 16, "alpha": 32.0}
LR = 1e-6
CLOSE = 1e-4  # of a loss in float32


def spread(seconds: Sequence[float]) -> dict[str, Any]:
  return {
    "median": statistics.median(seconds),
    "least": min(seconds),
    "most": max(seconds),
    "all": list(seconds),
  }


def in_turns(
  work: dict[str, Callable[[], float]], repeats: int
) -> dict[str, dict[str, Any]]:
  """Seconds of each, one after the other, so that a busy moment hits all."""
  found: dict[str, list[float]] = {name: [] for name in work}
  for turn in range(repeats):
    for name, run in work.items():
      run()  # a step follows one of its own kind
      found[name].append(run())
    step_cases.progress_line(
      f"turn {turn + 1} of {repeats}: "
      + ", ".join(f"{name} {each[-1]:.2f} s" for name, each in found.items())
    )
  return {name: spread(seconds) for name, seconds in found.items()}


def ratios(
  seconds: dict[str, dict[str, Any]], of: str, to: Sequence[str]
) -> dict[str, dict[str, float]]:
  """How many times the one takes the others' time; spread turn by turn."""
  out = {}
  for name in to:
    each = [
      a / b
      for a, b in zip(seconds[of]["all"], seconds[name]["all"], strict=True)
    ]
    out[f"{of} / {name}"] = {
      "median": seconds[of]["median"] / seconds[name]["median"],
      "least": min(each),
      "most": max(each),
    }
  return out


def train(
  described: LlavaConfig, model: Any, batch: int, dtype: str, repeats: int
) -> dict[str, Any]:
  """TRL's step against ours."""
  step_cases.progress_line("training: building and compiling")
  random = np.random.default_rng(0)
  assert isinstance(described.vision, VisionConfig)  # square pictures
  side = described.vision.image_size
  most = min(30000, described.decoder.vocab_size - 1)
  pairs = [
    {
      "picture": random.integers(0, 256, (side, side, 3), np.uint8),
      "question": random.integers(3, most, QUESTION),
      "answers": random.integers(3, most, (2, ANSWER)),
    }
    for _ in range(batch)
  ]
  base = peer_torch.our_params(model)
  theirs = peer_torch.Dpo(model, described, pairs, LORA, LR)
  arrays = base | theirs.adapters()
  reference = theirs.reference()
  cases = {}
  for kind in ("online", "cached"):
    fields = {
      "objective.name": "dpo",
      "lora.rank": LORA["rank"],
      "lora.alpha": LORA["alpha"],
      "lr": LR,
      "batch_size": batch,
      "dtype": dtype,
      "remat": "none",
      "reference": kind,
    }
    shape = Shape(described.image_tokens + QUESTION, ANSWER)
    case = step_cases.ours(f"ours, {kind}", described, shape, fields)
    _fill(case, arrays, pairs, reference, described)
    cases[kind] = case
  losses = {"TRL": theirs.step()[1]}
  for kind, case in cases.items():
    case.state, metrics = case.run(case.state, case.frozen, case.batch)
    losses[f"ours, {kind}"] = float(metrics["loss"])
  if dtype == "float32":
    for name, loss in losses.items():
      if abs(loss - losses["TRL"]) > CLOSE:
        raise UserError(f"losses differ: {losses}, see {name}")
  seconds = in_turns(
    {
      "TRL": lambda: theirs.step()[0],
      "ours, online": cases["online"].once,
      "ours, cached": cases["cached"].once,
    },
    repeats,
  )
  theirs.close()
  return {
    "losses": losses,
    "seconds": seconds,
    "pairs": batch,
    "required_flops": {k: case.flops for k, case in cases.items()},
    "ratios": ratios(seconds, "TRL", ["ours, online", "ours, cached"]),
  }


def _fill(
  case: step_cases.Case,
  arrays: dict[str, np.ndarray],
  pairs: list[dict[str, Any]],
  reference: list[np.ndarray],
  described: LlavaConfig,
) -> None:
  """Their weights and pairs instead of random ones."""
  put = lambda name, old: jax.device_put(
    jnp.asarray(arrays[name], old.dtype), old.sharding
  )
  params = {name: put(name, old) for name, old in case.state.params.items()}
  case.state = case.state._replace(params=params)
  case.frozen = Frozen(
    {name: put(name, old) for name, old in case.frozen.params.items()}, {}
  )
  picture = np.full(described.image_tokens, IMAGE_TOKEN)
  rows = {
    "prefix_ids": [np.concatenate([picture, p["question"]]) for p in pairs],
    "branch_ids": [p["answers"] for p in pairs],
    "images": [p["picture"][None] for p in pairs],
  }
  assert case.batch is not None
  batch = case.batch._replace(
    **{
      name: jax.device_put(
        jnp.asarray(np.stack(values)[None], getattr(case.batch, name).dtype),
        getattr(case.batch, name).sharding,
      )
      for name, values in rows.items()
    }
  )
  if (old := batch.reference) is not None:
    terms = Logps(reference[0][None], reference[1][None, :, None])
    place = lambda new, old: jax.device_put(jnp.asarray(new), old.sharding)
    batch = batch._replace(reference=jax.tree.map(place, terms, old))
  case.batch = batch


def write(
  described: LlavaConfig,
  model: Any,
  dtype: str,
  repeats: int,
  lengths: Sequence[int],
) -> dict[str, Any]:
  """transformers.generate against ours, and N answers of one prompt."""
  base = peer_torch.our_params(model)
  params = {k: jnp.asarray(v, jnp.dtype(dtype)) for k, v in base.items()}
  out: dict[str, Any] = {}
  for count in lengths:
    step_cases.progress_line(f"decoding {count} new tokens: compiling")
    eight = decode.Case(described, PROMPTS, 1, count, params)
    alone = decode.Case(described, 1, PROMPTS, count, params)
    run = peer_torch.generate(model, described, eight.ids, eight.pictures)
    same = (run(count) == eight.tokens()).mean()
    if dtype == "float32" and same < 1:
      raise UserError(f"{1 - same:.1%} of the greedy tokens differ")
    alone.seconds()
    seconds = in_turns(
      {
        "transformers": lambda run=run, count=count: _seconds(run, count),
        "ours": eight.seconds,
        "ours, one prompt": alone.seconds,
      },
      repeats,
    )
    tokens = PROMPTS * count
    out[f"{count} new tokens"] = {
      "equal tokens": same,
      "seconds": seconds,
      "tokens/s": {k: tokens / v["median"] for k, v in seconds.items()},
      "ratios": ratios(seconds, "transformers", ["ours", "ours, one prompt"])
      | ratios(seconds, "ours, one prompt", ["ours"]),
      "prefill seconds": eight.prefill_seconds(),
    }
  return out


def _seconds(run: Callable, count: int) -> float:
  start = time.perf_counter()
  run(count)
  return time.perf_counter() - start


def show(result: dict[str, Any]) -> None:
  """The tables."""
  parts = {k: v for k, v in result.items() if isinstance(v, dict)}
  if "train" in parts:
    print("training, seconds of a step (least to most)")
    _show_one(parts["train"])
    print(f"  losses of the first step: {parts['train']['losses']}")
  for name, one in parts.get("decode", {}).items():
    print(f"decoding, {name}, seconds of eight answers (least to most)")
    _show_one(one)
    rates = ", ".join(f"{k} {v:.0f}" for k, v in one["tokens/s"].items())
    print(f"  tokens/s: {rates}; prefill {one['prefill seconds']:.2f} s")


def _show_one(one: dict[str, Any]) -> None:
  for kind in ("seconds", "ratios"):
    for name, value in one[kind].items():
      print(
        f"  {name:<32}{value['median']:8.3f}  "
        f"({value['least']:.3f} to {value['most']:.3f})"
      )


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="benchmarks.peers",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add(
    "--preset",
    default="",
    help="name of the model's dimensions (default: small ones)",
  )
  add("--device", default="cpu", choices=("cpu", "gpu"))
  add("--repeats", type=int, default=5, help="timed runs of each program")
  add("--pairs", type=int, default=1, help="pairs per step")
  add("--new-tokens", type=int, nargs="+", default=[64, 128], metavar="N",
      help="lengths of the answers (%(default)s)")  # fmt: skip
  add("--only", default="", choices=("", "train", "decode"))
  add("--json", type=Path, default=RESULTS, metavar="FILE")
  args = parser.parse_args(argv)
  if jax.default_backend() != args.device:
    raise UserError(
      f"--device={args.device}: JAX runs on {jax.default_backend()} here"
    )
  described = preset(args.preset) if args.preset else SMALL
  dtype = "float32" if args.device == "cpu" else "bfloat16"
  model = peer_torch.llava(
    described,
    peer_torch.dtype_of(dtype),
    peer_torch.device_of(args.device),
  )
  result: dict[str, Any] = {
    "date": date.today().isoformat(),
    "command": " ".join(sys.argv[1:]),
    "machine": f"{jax.devices()[0].device_kind}, {platform.machine()}, "
    f"{peer_torch.threads()} threads",
    "versions": peer_torch.versions() | {"jax": jax.__version__},
    "dtype": dtype,
    "dimensions": args.preset or "small",
  }
  if args.only != "train":  # first: TRL puts its adapters into the model
    result["decode"] = write(
      described, model, dtype, args.repeats, args.new_tokens
    )
  if args.only != "decode":
    result["train"] = train(described, model, args.pairs, dtype, args.repeats)
  show(result)
  every = files.load_json(args.json) if args.json.exists() else {}
  key = f"{args.device}, {result['dimensions']}"
  every[key] = every.get(key, {}) | result
  with files.atomic_write(args.json) as file:
    json.dump(every, file, indent=1)
    file.write("\n")
  return 0


if __name__ == "__main__":
  errors.run(main)
