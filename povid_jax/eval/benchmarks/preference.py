"""Implicit rewards on held-out pairs: does the policy prefer the right answer?

The reward of an answer is DPO's (arXiv 2305.18290, section 4):
beta * (log-prob under the policy - log-prob under the reference), log-probs
summed over the answer. The reference is the checkpoint with its adapter
switched off, or --reference.

  accuracy         pairs whose chosen answer has the greater reward / pairs
  margin           mean reward of chosen - mean reward of rejected
  chosen_reward, rejected_reward   the two means
  likelier, reference_likelier   pairs whose chosen answer has the greater
                   log-prob / pairs: of the policy, and of the reference
  <category>/accuracy, <category>/margin   by category of the pairs

A checkpoint without adapter and without --reference has `likelier` only.
"""

import argparse
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from povid_jax import bounds, errors, progress
from povid_jax.data import samples
from povid_jax.data.records import Record
from povid_jax.errors import UserError
from povid_jax.eval import results
from povid_jax.eval.benchmarks.preference_pairs import open_pairs, pair_files
from povid_jax.eval.protocol import (
  Benchmark,
  Column,
  Flags,
  Metrics,
  Options,
  Scored,
  Totals,
  ratio,
)

# imported here, because it loads JAX, which scoring given answers does not need
if TYPE_CHECKING:
  from povid_jax.data.batch import Batch


def measure(policy: Any, data: Path, options: Options) -> Scored:
  """Scores every pair under policy and reference; a unit is a picture."""
  source = open_pairs(data, options)
  files = pair_files(data, options)
  scored = Scored(data_hash=results.hash_files(files))
  own = _logps(policy, source, options, adapter=True)
  reference = _reference(policy, source, options, scored)
  beta = options.extra.get("beta", 0.1)
  scored.settings |= {"beta": beta, "pairs": len(source)}
  for i in range(len(source)):
    rewards = None if reference is None else beta * (own[i] - reference[i])
    before = None if reference is None else reference[i]
    _count(scored, source[i], own[i], before, rewards)
  return scored


def _reference(
  policy: Any, source: Sequence[Record], options: Options, scored: Scored
) -> np.ndarray | None:
  spec = options.extra.get("reference")
  if spec:
    from povid_jax.generate.answering import load_policy

    other = load_policy(spec)
    scored.settings["reference"] = other.fingerprint
    return _logps(other, source, options, adapter=True)
  if policy.weights.lora is None:
    scored.notes.append(
      "rewards are not computed, because the checkpoint has no adapter to "
      "switch off and no --reference was given"
    )
    return None
  scored.settings["reference"] = "adapter off"
  return _logps(policy, source, options, adapter=False)


def _logps(
  policy: Any, source: Sequence[Record], options: Options, adapter: bool
) -> np.ndarray:
  """float64[n, 2]: summed log-probs of the chosen and the rejected answer."""
  import jax

  from povid_jax.models import sharding

  run = _scorer()
  size = options.extra.get("decoding", {}).get("batch_size", 16)
  size = -(-size // policy.mesh.devices.size) * policy.mesh.devices.size
  placed = jax.sharding.NamedSharding(policy.mesh, sharding.BATCH)
  sums = np.zeros((len(source), 2))
  name = "policy" if adapter else "reference"
  bar = progress.bar(total=len(source), desc=f"{name} log-probs", unit="pair")
  for batch in _batches(policy, source, size):
    rows = np.asarray(batch.index)
    with jax.set_mesh(policy.mesh):
      out = run(
        policy.graph,
        policy.params,
        jax.device_put(batch.for_model(), placed),
        adapter=adapter,
      )
    sums[rows[rows >= 0]] = np.stack([np.asarray(x) for x in out], 1)[rows >= 0]
    bar.update(int((rows >= 0).sum()))
    for row in rows[rows >= 0]:
      if not np.isfinite(sums[row]).all():
        what = f"preference: a log-prob of record {source[row].id!r}"
        raise errors.not_finite(what)
  bar.close()
  return sums


@functools.cache  # policy and reference share what is compiled
def _scorer() -> Any:
  import jax

  from povid_jax.models.params import merge
  from povid_jax.objectives import Needs, logps

  spec = logps.Spec(Needs(rejected=True))

  @functools.partial(jax.jit, static_argnames=("graph", "adapter"))
  def run(graph: Any, params: Any, batch: Any, *, adapter: bool) -> Any:
    model = merge(graph, params)
    pictures = logps.encode(model, batch, spec, adapter=adapter)
    sums = logps.score(model, batch, pictures, spec, adapter=adapter)
    return logps.per_pair(sums, batch)[:2]

  return run


def _batches(
  policy: Any, source: Sequence[Record], size: int
) -> Iterator["Batch"]:
  """Pairs of like length together; the last batch of a length is filled up."""
  from povid_jax.data import batches, lengths
  from povid_jax.data import layout as layouts

  text = lengths.TextSpec(policy.template, layouts.of(policy.config), 2)
  measured = lengths.measure(source, policy.tokenizer, text)
  most = policy.config.decoder.context_length
  for row in np.flatnonzero(measured.prefix + measured.branch > most)[:1]:
    raise UserError(
      f"preference: record {source[row].id!r} is too long: "
      f"{measured.prefix[row]} + {measured.branch[row]} tokens, the model has "
      f"{most} positions"
    )
  buckets = lengths.assign(
    measured,
    count=4,
    multiple=32,
    num_branches=2,
    one_room=text.layout.same_size,
  )
  loader = batches.Loader(
    source=source,
    tokenizer=policy.tokenizer,
    text=text,
    rooms=buckets.rooms,
    noise=None,
    local_rows=tuple(range(size)),
    weighted=bool(measured.weighted.any()),
  )
  for p, c in np.unique(buckets.of, axis=0):
    members = np.flatnonzero((buckets.of == (p, c)).all(axis=1))
    for start in range(0, len(members), size):
      rows = [int(i) for i in members[start : start + size]]
      rows += [batches.FILLER] * (size - len(rows))
      yield loader(
        batches.BatchRows(0, buckets.prefix[p], buckets.branch[c], tuple(rows))
      )


def _count(
  scored: Scored,
  record: Record,
  logps: np.ndarray,
  before: np.ndarray | None,
  rewards: np.ndarray | None,
) -> None:
  counts = {"n": 1.0, "likelier": logps[0] > logps[1]}
  verdict = {"logps": logps.tolist(), "correct": bool(logps[0] > logps[1])}
  if before is not None and rewards is not None:
    right, margin = rewards[0] > rewards[1], rewards[0] - rewards[1]
    counts |= {
      "rewarded": 1.0,
      "right": right,
      "chosen": rewards[0],
      "rejected": rewards[1],
      "reference_likelier": before[0] > before[1],
    }
    if record.category:
      counts |= {
        f"{record.category}/n": 1.0,
        f"{record.category}/right": right,
        f"{record.category}/margin": margin,
      }
    verdict |= {
      "reference_logps": before.tolist(),
      "rewards": rewards.tolist(),
      "correct": bool(right),
    }
  unit = record.id
  if record.images:
    unit = hashlib.sha256(record.images[0]).hexdigest()[:16]
  scored.count(unit, counts)
  scored.verdicts.append(
    {
      "question_id": record.id,
      "unit": unit,
      "category": record.category,
      **verdict,
    }
  )


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text."""
  if "rewarded" in totals:
    n = totals["rewarded"]
    yield "accuracy", ratio(totals["right"], n)
    yield "margin", ratio(totals["chosen"] - totals["rejected"], n)
    yield "chosen_reward", ratio(totals["chosen"], n)
    yield "rejected_reward", ratio(totals["rejected"], n)
    yield "reference_likelier", ratio(totals["reference_likelier"], n)
  yield "likelier", ratio(totals["likelier"], totals["n"])
  for name in sorted(n for n in totals if n.endswith("/margin")):
    category = name.removesuffix("/margin")
    n = totals[f"{category}/n"]
    yield f"{category}/accuracy", ratio(totals[f"{category}/right"], n)
    yield f"{category}/margin", ratio(totals[name], n)


def _add_flags(group: Any) -> None:
  group.add_argument(
    "--pairs",
    type=Path,
    metavar="PATH",
    help="held-out pairs, a folder of TFRecords or a file of pairs in any "
    "format of docs/data.md (default: in DATA/preference)",
  )
  samples.add_arguments(group)
  group.add_argument(
    "--reference",
    metavar="RUN[@STEP]",
    help="the reference model (default: the checkpoint with its adapter off)",
  )
  group.add_argument(
    "--beta",
    type=bounds.number(above=0, most=1e6),
    default=0.1,
    help="DPO's beta, the scale of rewards (0.1)",
  )


def _read_flags(args: argparse.Namespace) -> Mapping[str, Any]:
  if not 0 < args.beta < float("inf"):
    raise UserError(f"--beta={args.beta}: want a number above 0")
  return {
    "pairs": args.pairs,
    "format": args.format,
    "columns": args.columns,
    "reference": args.reference,
    "beta": args.beta,
  }


BENCHMARK = Benchmark(
  name="preference",
  flags=Flags("preference", _add_flags, _read_flags),
  title="Preference",
  needs=(),
  metrics=metrics,
  measure=measure,
  columns=(
    Column("accuracy", "accuracy"),
    Column("margin", "margin", 1.0),
    Column("likelier", "likelier"),
  ),
  keep_adapter=True,
)
