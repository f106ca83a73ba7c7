"""Log-probs and losses of given pairs, one JSON line each.

  python -m povid_jax.score --checkpoint=base --adapter=peft_folder \\
      --pairs=pairs.json --image-dir=images --out=scores.jsonl

Use it to check a loss pair by pair. The policy is the checkpoint with its
adapter, the reference the checkpoint alone; for a run, what it started from.
"""

import argparse
import functools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from povid_jax import bounds, errors, files, folders, objectives, progress
from povid_jax.checkpoints import restore
from povid_jax.data import fill, pairs, samples
from povid_jax.data import layout as layouts
from povid_jax.data import noise as noise_lib
from povid_jax.data.batch import Batch
from povid_jax.data.image import open_image, source_name
from povid_jax.data.lengths import TextSpec, encode_record
from povid_jax.data.tokenizer import Tokenizer, load_tokenizer
from povid_jax.errors import UserError
from povid_jax.models import params as params_lib
from povid_jax.models.config import LoraConfig
from povid_jax.models.params import Network, Params
from povid_jax.objectives import Logps, Needs, logps
from povid_jax.weights import peft_load

OBJECTIVES = ("dpo", "povid", "povid_shared", "povid_paper")
_MULTIPLE = 64  # of padded lengths, so that few shapes are compiled


class Scorer(NamedTuple):
  """The settings with which pairs are scored."""

  policy: Network
  reference: Network
  tokenizer: Tokenizer
  weights: restore.Weights


class Options(NamedTuple):
  """See the flags of the same names."""

  objective: tuple[str, ...]
  noise_step: int
  noise_overflow: noise_lib.Overflow
  noise_seed: int
  token_rule: str
  changed_weight: float = 1.0


def load_scorer(
  spec: str, adapter: str | None = None, dtype: str = "float32"
) -> Scorer:
  """Restores policy and reference; weights that both use are held once.

  Args:
    spec: a model folder or RUN[@STEP].
    adapter: PEFT folder on top of it, or None.
    dtype: of weights and activations.

  Raises:
    UserError: see `restore.load` and `peft_load.read_adapter`; an adapter is
      given for a run, which has its own.
  """
  spec = restore.resolve(spec)
  lora, trained, load = None, {}, restore.load
  if not (Path(spec) / "model.json").is_file():
    if adapter is not None:
      raise UserError(f"{spec} is a run; --adapter needs a model folder")
    trained, lora, _ = restore.load_trained(spec)
    load = restore.load_base
  weights = load(spec, dtype=jnp.dtype(dtype))
  if adapter is not None:
    read = peft_load.read_adapter(adapter, weights.config)
    if said := peft_load.skipped(read):
      print(f"{adapter}: {said}", file=sys.stderr)
    lora, trained = read.config, {**read.params, **read.others}

  def build(params: Params, lora: LoraConfig | None) -> Network:
    cast = lambda path, x: jnp.asarray(
      x, None if params_lib.is_lora(path) else jnp.dtype(dtype)
    )
    params = {path: cast(path, x) for path, x in params.items()}
    return params_lib.network(spec, weights.config, params, lora, dtype)

  rows = weights.config.decoder.vocab_size
  return Scorer(
    policy=build({**weights.params, **trained}, lora),
    reference=build(weights.params, None),
    tokenizer=load_tokenizer(weights.tokenizer, rows),
    weights=weights,
  )


def _noisy(
  sample: pairs.Sample, pictures: list[Image.Image], options: Options
) -> list[Image.Image]:
  """The distorted pictures: those that the sample names, or made here.

  If the sample names one distorted picture, it replaces the first picture; the
  other pictures stay clean.
  """
  if twins := pairs.noisy_pictures(sample):
    return [*map(open_image, twins), *pictures[len(twins) :]]
  seed = noise_lib.seed_for(options.noise_seed, sample.id, None)
  return noise_lib.distort_all(
    pictures, options.noise_step, seed, options.noise_overflow
  )


def make_batch(sample: pairs.Sample, scorer: Scorer, options: Options) -> Batch:
  """One sample as a batch of one row, with a branch for each answer.

  There are `images_noisy` where there are pictures.
  """
  if sample.rejected is None:
    raise UserError(
      "it has no rejected_conversations; a pair needs a chosen and a "
      "rejected answer"
    )
  layout = layouts.of(scorer.weights.config)
  spec = TextSpec(
    template=scorer.weights.template,
    layout=layout,
    num_branches=2,
    changed_weight=options.changed_weight,
  )
  encodings = tuple(picture.read() for picture in sample.images)
  pictures = [
    open_image(encoding, source_name(picture))
    for encoding, picture in zip(encodings, sample.images, strict=True)
  ]
  record = pairs.to_record(sample, encodings)
  encoded = encode_record(record, scorer.tokenizer, spec)
  longest = len(encoded.prefix_ids) + max(map(len, encoded.branch_ids))
  if longest > (most := scorer.weights.config.decoder.context_length):
    raise UserError(
      f"it is too long: {longest} tokens, image tokens included; the model "
      f"has {most} positions"
    )
  noisy = _noisy(sample, pictures, options) if pictures else None
  for clean, other in zip(pictures, noisy or (), strict=False):
    layouts.check_noisy(layout, clean.size, other.size)
  return fill.alone(encoded, layout, pictures, _MULTIPLE, noisy)


@functools.partial(jax.jit, static_argnames=("graph", "spec"))
def _logps(
  graph: Any, params: Any, batch: Batch, noise_ids: Any, spec: logps.Spec
) -> tuple[Logps, Any]:
  """The log-probs of each pair and of the noise tokens under one model.

  Args:
    noise_ids: tokens to score; None: the tokens that this model prefers.
  """
  model = params_lib.merge(graph, params)
  pictures = logps.encode(model, batch, spec, adapter=True)
  if spec.needs.noise and noise_ids is None:
    noise_ids = logps.noise_tokens(model, batch, pictures, spec, adapter=True)
  found = logps.score(
    model, batch, pictures, spec, adapter=True, noise_ids=noise_ids
  )
  return logps.per_pair(found, batch), noise_ids


def _losses(
  names: Sequence[str],
  policy: Logps,
  reference: Logps,
  shared: Any,
  counts: Any,
) -> dict[str, float | None]:
  out: dict[str, float | None] = {}
  for name in names:
    objective = objectives.get(name)
    if objective.needs.noise and policy.noise is None:
      out[name] = None
      continue
    other = reference
    if objective.needs.noise == "policy":
      other = reference._replace(noise=shared)
    loss, _ = objective.fn(policy, other, counts)
    out[name] = float(loss.mean())  # over the rejected answers
  return out


def score_pair(
  sample: pairs.Sample, scorer: Scorer, options: Options
) -> dict[str, Any]:
  """All numbers of one pair; the noise terms are null if it has no picture.

  Raises:
    UserError: a pair cannot be scored; the message names its id.
  """
  try:
    batch = make_batch(sample, scorer, options)
  except UserError as error:
    raise UserError(f"pair {sample.id!r}: {error}") from error
  policy, reference = scorer.policy, scorer.reference
  exclude = options.token_rule == "argmax_exclude_gold"
  noise = None if batch.images_noisy is None else "own"
  spec = logps.Spec(Needs(rejected=True, noise=noise), exclude_gold=exclude)
  mine, my_tokens = _logps(*policy, batch, None, spec=spec)
  theirs, their_tokens = _logps(*reference, batch, None, spec=spec)
  shared = None
  if noise:
    shared = _logps(*reference, batch, my_tokens, spec=spec)[0].noise
  mask = batch.loss_mask[0]
  number = lambda x: None if x is None else float(x[0])
  several = lambda x: [float(v) for v in x] if len(x) > 1 else float(x[0])
  named = lambda sums: {
    "chosen_logps": number(sums.chosen),
    "rejected_logps": several(sums.rejected),
    "noise_logps": number(sums.noise),
  }
  tokens = lambda ids: (
    [] if ids is None else np.asarray(ids)[0][mask[0]].tolist()
  )
  counts = logps.counts(jax.tree.map(jnp.asarray, batch))
  return {
    "id": sample.id,
    "policy": named(mine),
    "reference": named(theirs) | {"policy_noise_logps": number(shared)},
    "noise_tokens": {
      "policy": tokens(my_tokens),
      "reference": tokens(their_tokens),
    },
    "num_tokens": {
      "prefix": int(batch.prefix_len[0]),
      "chosen": int(mask[0].sum()),
      "rejected": int(mask[1:].sum()),
    },
    "loss": _losses(options.objective, mine, theirs, shared, counts),
  }


def _not_finite(row: dict[str, Any]) -> str:
  """The name of the first NaN or infinity of a row; "" if there is none."""
  for name, value in row.items():
    if isinstance(value, dict) and (bad := _not_finite(value)):
      return f"{name} {bad}"
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
      return name
  return ""


def score(
  sequence: Sequence[pairs.Sample], scorer: Scorer, options: Options, out: Path
) -> None:
  """Writes one line per pair, in order; the file appears when complete."""
  with files.atomic_write(out) as file:
    for sample in progress.bar(sequence, desc="scoring", unit="pair"):
      row = score_pair(sample, scorer, options)
      if bad := _not_finite(row):
        raise errors.not_finite(f"pair {sample.id!r}: {bad}")
      file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _objectives(value: str) -> tuple[str, ...]:
  names = tuple(name.strip() for name in value.split(",") if name.strip())
  for name in names:
    if name not in OBJECTIVES:
      raise argparse.ArgumentTypeError(
        f"{name!r}: want a comma-separated list of {','.join(OBJECTIVES)}"
      )
  return names


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m povid_jax.score",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--checkpoint", required=True, help="model folder, RUN or RUN@STEP")
  add("--adapter", help="PEFT folder: the policy is the checkpoint with it")
  add("--pairs", required=True, help="preference pairs: see docs/data.md")
  samples.add_arguments(parser)
  add("--image-dir", help="folder of the pictures that the pairs name")
  add("--out", required=True, type=Path, help="file to write (JSON lines)")
  add(
    "--objective",
    type=_objectives,
    default=("dpo", "povid", "povid_shared"),
    help=f"losses to report, comma-separated, from {','.join(OBJECTIVES)}",
  )
  add("--dtype", choices=("float32", "bfloat16"), default="float32")
  add("--noise-step", type=bounds.NOISE_STEP, default=500, help="0 to 999")
  add("--noise-overflow", choices=("wrap", "clip"), default="wrap")
  add("--noise-seed", type=bounds.SEED, default=0)
  add(
    "--noise-tokens",
    "--token-rule",
    dest="token_rule",
    choices=("argmax", "argmax_exclude_gold"),
    default="argmax",
    help="how the noise token is chosen under the distorted picture",
  )
  add(
    "--changed-weight",
    type=bounds.number(most=1e6),
    default=1.0,
    metavar="W",
    help="weight of the words that only one of the two answers has (DDPO)",
  )
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  args = _parser().parse_args(argv)
  folders.refuse_remote(vars(args), but=("image_dir",))
  layout = samples.Layout(args.image_dir, args.format, args.columns)
  found: list[str] = []
  read = samples.read_samples(args.pairs, layout=layout, announce=found.append)
  if not read:
    raise UserError(f"{args.pairs}: the file holds no pairs to score")
  files.check_writable(args.out)
  scorer = load_scorer(args.checkpoint, args.adapter, args.dtype)
  options = Options(**{name: getattr(args, name) for name in Options._fields})
  # by default accelerators round the factors of float32 products to fewer bits
  precision = "highest" if args.dtype == "float32" else "default"
  with jax.default_matmul_precision(precision):
    score(read, scorer, options, args.out)
  print(*found, sep="\n")
  return 0


def command() -> None:
  """The entry point of the installed script."""
  errors.run(main)


if __name__ == "__main__":
  command()
