"""Pairs of one question become one row of several.

Picture, question and context are then computed once for all of their answers,
and so is a chosen answer that several of them have. The loss over the pairs
stays what it is: each rejected answer counts as a pair of its own, with the
chosen answer that it had.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

from povid_jax.data.pairs import Sample, split_turns
from povid_jax.data.picture import Picture
from povid_jax.data.records import Rejected

# Of what a sample brings beside its texts, what a record keeps or depends on.
_KEPT = ("category", "injector", "image_noisy", "noise_step")


def _said(sample: Sample) -> Hashable:
  """What pairs of one row have in common, but for the pictures."""
  # The turn at which the answers part decides what is scored.
  prompt = split_turns(sample)[0]
  kept = json.dumps([sample.extra.get(name) for name in _KEPT])
  return (prompt, sample.context, sample.end_scored, sample.system, kept)


def _joined(several: Sequence[Sample]) -> Sample:
  chosen = list(dict.fromkeys(s.turns for s in several))
  more = (
    Rejected(s.rejected or (), s.rejected_weight, chosen.index(s.turns))
    for s in several[1:]
  )
  return dataclasses.replace(
    several[0], more_rejected=tuple(more), more_chosen=tuple(chosen[1:])
  )


def group(
  samples: Sequence[Sample],
  most: int,
  digest: Callable[[Picture], bytes],
) -> list[Sample]:
  """Joins samples that differ in their answers alone.

  Args:
    samples: those without a rejected answer, or with several, stay as they are.
    most: rejected answers of one row.
    digest: of a picture's content; asked for where the texts are equal.

  Returns:
    Rows in the order of their first samples, with the ids of these.
  """
  alike: dict[Hashable, list[Sample]] = defaultdict(list)
  for sample in samples:
    # what is to be refused stays alone: it would take the others with it
    if sample.rejected not in (None, sample.turns) and not sample.more_rejected:
      alike[_said(sample)].append(sample)
  rows: dict[int, Sample] = {id(s): s for s in samples}
  for several in alike.values():
    if len(several) == 1:
      continue
    seen: dict[Hashable, list[Sample]] = defaultdict(list)
    for sample in several:
      seen[tuple(map(digest, sample.images))].append(sample)
    for same in seen.values():
      for start in range(0, len(same), most):
        row = same[start : start + most]
        rows[id(row[0])] = _joined(row)
        for sample in row[1:]:
          del rows[id(sample)]
  return list(rows.values())
