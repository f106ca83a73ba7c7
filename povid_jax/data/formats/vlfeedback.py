"""VLFeedback: four answers of a prompt, rated by GPT-4V.

    {id, img_path, prompt, models, completions: [{response, annotations}]}

MMInstruction/VLFeedback. Every two answers with different mean ratings make a
pair, as run_dpo.py of vlf-silkie/VLFeedback makes them; the pairs of a prompt
follow one another. A table holds `completions` as lists side by side.
"""

import itertools
from collections.abc import Iterable
from typing import Any

from povid_jax.data.formats import answers, base
from povid_jax.data.formats.base import Format, Pick, Row
from povid_jax.data.pairs import Sample


def _completions(value: object) -> list[dict[str, Any]]:
  if isinstance(value, dict):  # a struct of lists
    columns = {k: v for k, v in value.items() if isinstance(v, list)}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
      raise base.Malformed("completions holds lists of different lengths")
    value = [
      dict(zip(columns, row, strict=True))
      for row in zip(*columns.values(), strict=True)
    ]
  if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
    raise base.Malformed("completions: want a list of {response, annotations}")
  return value


def _rating(completion: dict[str, Any]) -> float | None:
  """The mean over the aspects, None where one of them is no number."""
  aspects = completion.get("annotations")
  if not isinstance(aspects, dict) or not aspects:
    return None
  try:
    ratings = [float(aspect["Rating"]) for aspect in aspects.values()]
  except (TypeError, KeyError, ValueError):  # "N/A"
    return None
  return sum(ratings) / len(ratings)


def _samples(row: Row, pick: Pick) -> Iterable[Sample]:
  name = base.row_id(row.get("id"))
  held = row.get("image")
  if held is None:
    path = row.get("img_path")
    # The images lie in merged_images.zip under the id; img_path is often one
    # of the authors' machine.
    names = (
      [path] if isinstance(path, str) and path[:1] not in ("", "/") else []
    )
    held = pick([*names, f"{name}.jpg", f"merged_images/{name}.jpg"])
  rated = [(_rating(c), c) for c in _completions(base.need(row, "completions"))]
  for (i, (one, left)), (j, (two, right)) in itertools.combinations(
    enumerate(rated), 2
  ):
    if one is None or two is None or one == two:
      continue
    better, worse = (left, right) if one > two else (right, left)
    yield answers.pair(
      base.pictures(held, "img_path", pick),
      base.need(row, "prompt"),
      better.get("response"),
      worse.get("response"),
      name=f"{name}-{i}-{j}" if name else "",
      fields=("prompt", "completions.response", "completions.response"),
    )


FORMAT = Format(
  name="vlfeedback",
  title="VLFeedback",
  keys=("img_path", "prompt", "completions"),
  matches=lambda row: "completions" in row and base.is_text(row, "prompt"),
  samples=_samples,
  reads=frozenset(
    {"id", "img_path", "image", "prompt", "models", "completions"}
  ),
)
