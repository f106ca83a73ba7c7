"""CHAIRi of two models at the same recall.

  python -m povid_jax.eval matched-recall EVAL_A EVAL_B

A model that writes less hallucinates less, so a lower CHAIRi at a lower recall
proves nothing. Here the answers of A are cut after their n-th object, n = 1, 2,
...: the curve of what A reaches by saying less. Between two cuts each picture
takes one or the other by lot (recall and CHAIRi follow from the expected
counts), so that A has exactly the recall of B. Folders are those that
`povid_jax.eval --benchmarks=chair` wrote, about the same pictures; several
pairs (A1 B1 A2 B2 ...) are pooled, as the seeds of one experiment.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from povid_jax.errors import UserError
from povid_jax.eval import bootstrap, needs
from povid_jax.eval.bootstrap import Difference

# columns of the counts of one picture
MENTIONS, WRONG, SEEN, TRUTH = range(4)


class Matched(NamedTuple):
  """What B has and what A has at B's recall.

  Attributes:
    recall: of both, unless A never reaches it: then A's own is lower.
    chair: CHAIRi of A and of B, and their difference over resampled pictures.
  """

  recall: float
  chair: Difference


def verdicts(folder: Path) -> dict[str, dict[str, Any]]:
  """Picture -> CHAIR's verdict about it.

  Raises:
    UserError: the folder has no CHAIR verdicts.
  """
  path = folder / "verdicts.jsonl"
  if not path.exists():
    raise UserError(f"{path}: file not found; `povid_jax.eval` writes it")
  rows = needs.read_jsonl(path)
  found = {row["unit"]: row for row in rows if row["benchmark"] == "chair"}
  if not found:
    raise UserError(
      f"{path}: the file has no results of chair; run povid_jax.eval with "
      "--benchmarks=chair and this folder as --out"
    )
  return found


def _counts(verdict: Mapping[str, Any], cut: int | None = None) -> list[int]:
  """The four counts of one picture, of its first `cut` mentions only."""
  kept = verdict["mentions"][:cut]
  said = {mention["object"] for mention in kept}
  wrong = sum(mention["hallucinated"] for mention in kept)
  truth = set(verdict["objects"])
  return [len(kept), wrong, len(said & truth), len(truth)]


def match(
  pairs: Sequence[tuple[Path, Path]], resamples: int = 2000
) -> tuple[list[tuple[int, float, float]], Matched]:
  """A's curve (cut, recall, CHAIRi), and A and B at the recall of B.

  Raises:
    UserError: A and B have answers for different pictures.
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
  difference = bootstrap.difference(float(a[0]), float(b[0]), b_R - a_R)
  return curve, Matched(recall[0], difference)


def _stack(
  pairs: Sequence[tuple[Path, Path]],
) -> tuple[np.ndarray, np.ndarray]:
  """A's counts at every cut, [C, U, 4], and B's, [U, 4]."""
  rows_a, rows_b = [], []
  for a, b in pairs:
    of_a, of_b = verdicts(a), verdicts(b)
    if of_a.keys() != of_b.keys():
      raise UserError(
        f"{a} and {b} have answers for different pictures; compare results "
        "for the same questions"
      )
    rows_a += of_a.values()
    rows_b += [of_b[unit] for unit in of_a]
  longest = max(len(row["mentions"]) for row in rows_a)
  cuts = [[_counts(row, n) for row in rows_a] for n in range(1, longest + 1)]
  return np.array(cuts, float), np.array([_counts(r) for r in rows_b], float)


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


def run(argv: Sequence[str]) -> int:
  """The command `povid_jax.eval matched-recall`."""
  parser = argparse.ArgumentParser(
    prog="povid_jax.eval matched-recall",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("folders", nargs="+", type=Path, metavar="EVAL")
  folders = parser.parse_args(argv).folders
  if len(folders) % 2:
    raise UserError(
      "want pairs of folders: A B, or A1 B1 A2 B2 ...; an odd number was given"
    )
  pairs = list(zip(folders[::2], folders[1::2], strict=True))
  curve, found = match(pairs)
  for cut, recall, chair in curve:
    print(f"A cut after {cut}: recall {recall:.1%}, CHAIRi {chair:.1%}")
  chair = found.chair
  print(
    f"at recall {found.recall:.1%}: CHAIRi of A {chair.a:.1%}, of B "
    f"{chair.b:.1%}; difference {100 * chair.value:+.1f} points "
    f"[{100 * chair.low:+.1f}, {100 * chair.high:+.1f}], p = {chair.p:.3g}"
  )
  return 0
