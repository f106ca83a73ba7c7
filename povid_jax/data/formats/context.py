"""Keys beside a pair: its context, weights, and more rejected answers.

    context          the answer so far, to which both answers add
    end_scored       whether the answer ends there, so that </s> is scored
    rejected_weight  of each token of the rejected answer
    more_rejected    [{conversations, weight}], other rejected answers

`data_gen sample` writes the first two.
"""

import dataclasses
import math

from povid_jax.data.formats import base
from povid_jax.data.formats.base import Row
from povid_jax.data.pairs import Sample
from povid_jax.data.records import Rejected

KEYS = frozenset({"context", "end_scored", "rejected_weight", "more_rejected"})


def _weight(value: object, field: str) -> float:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not 0 <= float(str(value)) < math.inf:
    raise base.Malformed(f"{field} is {value!r:.40}; want a number, 0 or more")
  return float(str(value))


def _more(value: object, turns: tuple[str, ...]) -> tuple[Rejected, ...]:
  if not isinstance(value, list):
    raise base.Malformed(f"more_rejected is {base.kind(value)}; want a list")
  found = []
  for i, held in enumerate(value):
    field = f"more_rejected[{i}]"
    if not isinstance(held, dict):
      raise base.Malformed(f"{field} is {base.kind(held)}; want an object")
    said = base.need(held, "conversations")
    _, answers = base.conversation(said, f"{field}.conversations")
    answers = base.same_questions(answers, turns, field, "conversations")
    weight = _weight(held.get("weight", 1.0), f"{field}.weight")
    found.append(Rejected(answers, weight))
  return tuple(found)


def after(sample: Sample, said: object) -> Sample:
  """The sample behind a context as SENTINEL's rows have it.

  As their collators do it: the end is scored only where there is no context.
  """
  if said is None or not base.text(said, "context").strip():
    return sample
  so_far = str(said).rstrip()
  return dataclasses.replace(sample, context=so_far, end_scored=False)


def add(sample: Sample, row: Row) -> Sample:
  """The sample with the other keys of its row (context, weights, further
  rejected answers); raises Malformed.
  """
  context = base.text(row.get("context") or "", "context").rstrip()
  end = row.get("end_scored")
  if end is not None and not isinstance(end, bool):
    raise base.Malformed(f"end_scored is {base.kind(end)}; want true or false")
  more = _more(row.get("more_rejected") or [], sample.turns)
  if more and sample.rejected is None:
    raise base.Malformed("more_rejected without rejected_conversations")
  weight = row.get("rejected_weight")
  weight = 1.0 if weight is None else _weight(weight, "rejected_weight")
  return dataclasses.replace(
    sample,
    context=context,
    end_scored=end,
    rejected_weight=weight,
    more_rejected=more,
  )
