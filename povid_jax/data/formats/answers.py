"""One question with a chosen answer and rejected ones, all of them texts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from povid_jax.data.formats import base
from povid_jax.data.formats.base import Row
from povid_jax.data.pairs import Sample
from povid_jax.data.picture import Picture
from povid_jax.data.records import Rejected


def several(value: object, field: str) -> list[str]:
  """A text, or the texts of a list that is not empty; raises Malformed."""
  if not isinstance(value, list):
    return [base.words(value, field)]
  if not value:
    raise base.Malformed(f"{field} is an empty list; want text")
  return [base.words(one, f"{field}[{i}]") for i, one in enumerate(value)]


def with_rejected(sample: Sample, texts: Sequence[str]) -> Sample:
  """The sample with these rejected answers to its last question."""
  first, *more = ((*sample.turns[:-1], text) for text in texts)
  return dataclasses.replace(
    sample, rejected=first, more_rejected=tuple(map(Rejected, more))
  )


def pair(
  images: Sequence[Picture],
  asked: object,
  chosen: object,
  rejected: object,
  *,
  name: str = "",
  fields: tuple[str, str, str] = ("question", "chosen", "rejected"),
) -> Sample:
  """A sample; where `rejected` is a list, its texts share the question."""
  q, a = base.words(asked, fields[0]), base.words(chosen, fields[1])
  sample = Sample(name, tuple(images), (q, a))
  return with_rejected(sample, several(rejected, fields[2]))


def matches(row: Row) -> bool:
  """Whether question, chosen and rejected are texts, rejected maybe a list."""
  held: Any = row.get("rejected")
  texts = held if isinstance(held, list) else [held]
  return base.is_text(row, "question", "chosen") and bool(
    texts and all(isinstance(text, str) for text in texts)
  )
