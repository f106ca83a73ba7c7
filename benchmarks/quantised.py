"""What kernels in 8 or 4 bits do to log-probs and gradients of a model.

  python -m benchmarks.quantised --model runs/quickstart/sft \\
    --data runs/quickstart/records/pairs

The policy has adapters that have moved, the same ones every time, so that
gradients reach A and B alike: those of a run that started from the model
(--adapters), or random ones. In a table, against the base as it is and products
in float32: the mean difference of an answer's log-prob per token and of a
pair's reward margin (beta = 1), in nats, the share of pairs whose margin keeps
its sign, and the norm of the gradient's difference over that of the gradient.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from povid_jax import config as config_lib
from povid_jax import errors
from povid_jax.checkpoints import restore
from povid_jax.errors import UserError
from povid_jax.models import sharding
from povid_jax.models.config import LoraConfig
from povid_jax.models.params import is_lora
from povid_jax.objectives import logps
from povid_jax.training import build

_TOGETHER = 64  # pairs of a batch
_OF_PAIRS = ("log-probs", "margin")
KINDS = ("base=int8", "base=nf4", "matmul=int8", "matmul=fp8")


def measure(
  model: Path | str,
  data: Path | str,
  kind: str,
  pairs: int,
  adapters: Path | str = "",
) -> dict[str, np.ndarray]:
  """Log-probs, rewards and gradients of the first pairs.

  Args:
    kind: one of KINDS, or "" for kernels and products as they are.
    adapters: a run whose adapters are taken, or "".
  """
  trained, lora = None, LoraConfig(rank=16, alpha=32.0)
  if adapters:
    trained, held, _ = restore.load_trained(adapters)
    if held is None:
      raise UserError(f"--adapters={adapters}: this run trained none")
    lora = held
  together = min(pairs, _TOGETHER)
  fields = {
    "init": str(model), "data.train": str(data),
    "objective.name": "dpo", "objective.hyper.beta": 1.0,
    "dtype": "float32", "attention": "xla", "batch_size": together,
    "data.buckets": 1, "steps": -(-pairs // together),
    **{f"lora.{name}": value for name, value in lora.to_dict().items()},
  }  # fmt: skip
  config = config_lib.default()
  for name, value in fields.items():
    config_lib.set_field(config, name, value)
  if kind:
    config_lib.set_field(config, *kind.split("="))
  one = {"data": 1, "fsdp": 1, "tensor": 1}
  mesh = sharding.make_mesh(one, jax.devices()[:1])
  made = build.build_model(config, mesh)
  records = build.build_data(config, made.weights, Path())
  step, _ = build.make_step(config, made, 1)
  loader = build.build_loader(config, records, made.weights, mesh, Path())
  params = trained or _moved(made.params)
  scores = jax.jit(_scores, static_argnums=0)
  each: list[dict[str, np.ndarray]] = []
  for number in range(min(len(records.plan), records.plan.steps_per_epoch)):
    host = loader(records.plan[number]).for_model()
    with jax.set_mesh(mesh):
      batch = jax.tree.map(lambda x: x[0], build.place(host, config, mesh))
      on_device = scores(step, made.frozen, params, batch)
    found: dict[str, Any] = jax.tree.map(np.asarray, on_device)
    real = found.pop("tokens") > 0  # not a row that fills the batch
    of_pairs = {name: found[name][real] for name in _OF_PAIRS}
    each.append({**found, **of_pairs})
  joined = {n: np.concatenate([e[n] for e in each]) for n in _OF_PAIRS}
  return {**joined, "gradient": np.sum([e["gradient"] for e in each], axis=0)}


def _moved(params: dict[str, Any]) -> dict[str, Any]:
  """B a tenth of a usual A, so that the reward is not zero."""
  out = dict(params)
  for path in filter(is_lora, params):
    if path.endswith("/lora_b"):
      key = jax.random.key(len(path))
      noise = jax.random.normal(key, params[path].shape)
      out[path] = 0.1 * noise / np.sqrt(params[path].shape[-1])
  return out


def _scores(step: Any, frozen: Any, params: Any, batch: Any) -> dict[str, Any]:
  counts = logps.counts(batch)

  def loss(params: Any) -> tuple[Any, Any]:
    found = logps.both(step.graph, frozen, params, batch, step.spec)
    losses, _ = step.objective.fn(found.policy, found.reference, counts)
    return losses.mean(), found

  grads, found = jax.grad(loss, has_aux=True)(params)
  mine, theirs = found.policy, found.reference
  return {
    "tokens": counts.chosen,
    "log-probs": mine.chosen / jax.numpy.maximum(counts.chosen, 1),
    "margin": (mine.chosen - theirs.chosen) - (mine.rejected - theirs.rejected),
    "gradient": jax.numpy.concatenate(
      [grads[path].reshape(-1) for path in sorted(grads)]
    ),
  }


def compare(
  found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]
) -> dict[str, float]:
  """The columns of the table."""
  away = {name: found[name] - wanted[name] for name in found}
  same = np.sign(found["margin"]) == np.sign(wanted["margin"])
  norm = np.linalg.norm
  return {
    "log-prob per token": float(np.abs(away["log-probs"]).mean()),
    "reward margin": float(np.abs(away["margin"]).mean()),
    "same sign": float(same.mean()),
    "gradient": float(norm(away["gradient"]) / norm(wanted["gradient"])),
  }


def main(argv: Sequence[str] | None = None) -> int:
  """The command: prints a table."""
  parser = argparse.ArgumentParser(
    prog="benchmarks.quantised",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--model", required=True, help="model folder or run")
  parser.add_argument("--data", required=True, help="records of pairs")
  parser.add_argument("--adapters", default="", help="run that trained them")
  parser.add_argument("--pairs", type=int, default=64)
  args = parser.parse_args(argv)
  found = functools.partial(measure, args.model, args.data)
  whole = found("", args.pairs, args.adapters)
  mean = lambda name: float(np.abs(whole[name]).mean())
  print(
    f"as it is: log-prob per token {mean('log-probs'):.3f}, reward margin "
    f"{mean('margin'):.3f} (means of absolute values), {len(whole['margin'])} "
    "pairs"
  )
  for kind in KINDS:
    row = compare(found(kind, args.pairs, args.adapters), whole)
    print(f"{kind}: " + ", ".join(f"{k} {v:.4f}" for k, v in row.items()))
  return 0


if __name__ == "__main__":
  errors.run(main)
