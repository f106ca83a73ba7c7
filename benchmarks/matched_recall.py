"""CHAIRi of two models at the same recall.

  python -m benchmarks.matched_recall EVAL_A EVAL_B

Whoever says less hallucinates less, so a lower CHAIRi at a lower recall shows
nothing. Here the answers of A are cut after their n-th object, n = 1, 2, ...:
the curve of what A reaches by saying less. Between two cuts each picture takes
one or the other by lot (recall and CHAIRi follow from the expected counts), so
that A has exactly the recall of B. Folders are those that `povid_jax.eval
--benchmarks=chair` wrote, about the same pictures; several pairs (A1 B1 A2 B2
...) are pooled, as the seeds of one experiment.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from povid_jax import errors
from povid_jax.errors import UserError
from povid_jax.evals import bootstrap

# columns of the counts of one picture
MENTIONS, WRONG, SEEN, TRUTH = range(4)


@dataclasses.dataclass(frozen=True)
class Matched:
  """What B has and what A has at B's recall.

  Attributes:
    recall: of both, unless A never reaches it: then A's own is lower.
    a, b: CHAIRi.
    low, high: 95% percentile interval of b - a over resampled pictures.
    p: two-sided, of the same bootstrap.
  """

  recall: float
  a: float
  b: float
  low: float
  high: float
  p: float


def counts(folder: Path, cut: int | None = None) -> dict[str, np.ndarray]:
  """Picture -> float64[4] counts, of the first `cut` mentions only.

  Raises:
    UserError: no CHAIR verdicts in the folder.
  """
  path = folder / "verdicts.jsonl"
  if not path.exists():
    raise UserError(f"{path}: not there; `povid_jax.eval` writes it")
  found = {}
  for line in path.read_text(encoding="utf-8").splitlines():
    row = json.loads(line)
    if row["benchmark"] != "chair":
      continue
    kept = row["mentions"][:cut]
    said = {mention["object"] for mention in kept}
    wrong = sum(mention["hallucinated"] for mention in kept)
    truth = set(row["objects"])
    found[row["unit"]] = np.array(
      [len(kept), wrong, len(said & truth), len(truth)], float
    )
  if not found:
    raise UserError(f"{path}: no verdicts of chair")
  return found


def match(
  pairs: Sequence[tuple[Path, Path]], resamples: int = 2000
) -> tuple[list[tuple[int, float, float]], Matched]:
  """A's curve (cut, recall, CHAIRi), and A and B at the recall of B.

  Raises:
    UserError: A and B are not about the same pictures.
  """
  cuts_CU4, b_U4 = _stack(pairs)
  sums_C4 = cuts_CU4.sum(1)
  curve = [
    (n, row[SEEN] / row[TRUTH], row[WRONG] / row[MENTIONS])
    for n, row in enumerate(sums_C4, 1)
  ]
  recall, a, b = _at_recall(sums_C4[None], b_U4.sum(0)[None])
  rng = np.random.default_rng(0)
  weights_RU = bootstrap.draw(rng, len(b_U4), resamples)
  _, a_R, b_R = _at_recall(
    np.einsum("ru,cuk->rck", weights_RU, cuts_CU4), weights_RU @ b_U4
  )
  low, high = np.percentile(b_R - a_R, [2.5, 97.5])
  above = float(np.mean(b_R - a_R >= 0))
  p = min(1.0, 2 * max(min(above, 1 - above), 1 / (resamples + 1)))
  return curve, Matched(recall[0], a[0], b[0], low, high, p)


def _stack(
  pairs: Sequence[tuple[Path, Path]],
) -> tuple[np.ndarray, np.ndarray]:
  """A's counts at every cut, [C, U, 4], and B's, [U, 4]."""
  whole = [(counts(a), counts(b)) for a, b in pairs]
  for (a, b), (of_a, of_b) in zip(pairs, whole, strict=True):
    if of_a.keys() != of_b.keys():
      raise UserError(f"{a} and {b} are not about the same pictures")
  longest = int(max(row[MENTIONS] for a, _ in whole for row in a.values()))
  cuts = []
  for n in range(1, longest + 1):
    rows = [counts(a, n) for a, _ in pairs]
    cuts.append(np.stack([row[u] for row in rows for u in row]))
  b = np.stack([of_b[u] for of_a, of_b in whole for u in of_a])
  return np.stack(cuts), b


def _at_recall(
  cuts_RC4: np.ndarray, b_R4: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Recall, A's CHAIRi and B's of every replicate."""
  wanted_R = b_R4[:, SEEN] / b_R4[:, TRUTH]
  recall_RC = cuts_RC4[..., SEEN] / cuts_RC4[..., TRUTH]
  # recall grows with the cut: the first cut that has what is wanted
  above_R = np.minimum(
    (recall_RC < wanted_R[:, None]).sum(1), recall_RC.shape[1] - 1
  )
  below_R = np.maximum(above_R - 1, 0)
  rows = np.arange(len(wanted_R))
  low_R, high_R = recall_RC[rows, below_R], recall_RC[rows, above_R]
  gap_R = np.where(high_R > low_R, high_R - low_R, 1.0)
  share_R = np.clip((wanted_R - low_R) / gap_R, 0.0, 1.0)[:, None]
  mixed_R4 = (1 - share_R) * cuts_RC4[rows, below_R] + share_R * cuts_RC4[
    rows, above_R
  ]
  return (
    wanted_R,
    mixed_R4[:, WRONG] / mixed_R4[:, MENTIONS],
    b_R4[:, WRONG] / b_R4[:, MENTIONS],
  )


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="benchmarks.matched_recall",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("folders", nargs="+", type=Path, metavar="EVAL")
  folders = parser.parse_args(argv).folders
  if len(folders) % 2:
    raise UserError("expected pairs of folders: A B, or A1 B1 A2 B2 ...")
  pairs = list(zip(folders[::2], folders[1::2], strict=True))
  curve, found = match(pairs)
  for cut, recall, chair in curve:
    print(f"A cut after {cut}: recall {recall:.1%}, CHAIRi {chair:.1%}")
  print(
    f"at recall {found.recall:.1%}: CHAIRi of A {found.a:.1%}, of B "
    f"{found.b:.1%}; difference {100 * (found.b - found.a):+.1f} points "
    f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}], p = {found.p:.3g}"
  )
  return 0


if __name__ == "__main__":
  errors.run(main)
