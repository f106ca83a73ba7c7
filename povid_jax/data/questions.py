"""One question about pictures, with its id."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from povid_jax.data.picture import Picture


@dataclass(frozen=True)
class Question:
  """A question, its pictures and further fields of its benchmark.

  Attributes:
    question_id: unique within one benchmark; answers are matched by it.
    images: the pictures, in the order in which the model sees them; those of
      a benchmark are paths.
    text: the question without `<image>`.
    extra: ground truth and labels; never shown to the model.
    system: system prompt instead of that of the template, if any.
    earlier: turns before it, a question and its answer in turn; the pictures
      then belong to the first of them.
  """

  question_id: str | int
  images: tuple[Path | Picture, ...]
  text: str
  extra: dict[str, Any] = field(default_factory=dict)
  earlier: tuple[str, ...] = ()
  system: str | None = None
