"""Boxes of an open-vocabulary detector, made beforehand, in a JSON file.

    {"a.jpg": {"detections": [{"label": "dog", "score": 0.71, "box": [..]}],
               "queries": ["dog", "cat"]}}

or the same as JSON lines with "image" in each row. `queries` are the words that
the detector was asked for; without it, it was asked for every object of the
vocabulary. Labels are read through the vocabulary, so "puppy" is a dog. The
best score of an object decides: from `--detected` on it is there, below
`--undetected` (or without a box) it is absent, and between the two it is
uncertain.
"""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_gen.items import image_key
from data_gen.verify.base import Asked, Presence, Setting, Verifier
from povid_jax import bounds, files
from povid_jax.errors import UserError


class DetectionsVerifier(Verifier):
  """See the module's text."""

  name = "detections"

  def __init__(self, setting: Setting):
    super().__init__(setting)
    args = setting.args
    if not args.detections:
      raise UserError("--verify=detections needs --detections FILE")
    self._sure, self._none = args.detected, args.undetected
    if not 0 <= self._none <= self._sure <= 1:
      raise UserError(
        f"--undetected={self._none}, --detected={self._sure}: want scores "
        "0 <= undetected <= detected <= 1"
      )
    self._path = Path(args.detections)
    self._scores: dict[str, dict[str, float]] = {}
    self._queries: dict[str, set[str] | None] = {}
    for image, row in _rows(self._path):
      self._add(image_key(image), image, row)

  @staticmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--detections", metavar="FILE", help="boxes of a detector, JSON")
    add(
      "--detected",
      type=bounds.SHARE,
      default=0.5,
      metavar="SCORE",
      help="an object with a box of at least this score is present (default "
      "%(default)s)",
    )
    add("--undetected", type=bounds.SHARE, default=0.25,
        metavar="SCORE",
        help="an object without a box of at least this score is absent "
          "(default %(default)s)")  # fmt: skip

  def settings(self) -> dict[str, Any]:
    digest = hashlib.sha256(self._path.read_bytes()).hexdigest()[:16]
    return {"detections": [digest, self._sure, self._none]}

  def present(self, asked: Sequence[Asked]) -> list[Presence]:
    return [{o: self._one(a.key, o) for o in a.objects} for a in asked]

  def _one(self, image: str, name: str) -> bool | None:
    if image not in self._scores:
      return None  # the detector has not seen this picture
    score = self._scores[image].get(name, -1.0)
    if score >= self._sure:
      return True
    queries = self._queries[image]
    asked_for = queries is None or name in queries
    return False if score < self._none and asked_for else None

  def _add(self, key: str, image: str, row: Any) -> None:
    where = f"{self._path}: image {image!r}"
    row = {"detections": row} if isinstance(row, list) else row
    boxes = row.get("detections") if isinstance(row, dict) else None
    if not isinstance(boxes, list):
      raise UserError(
        f"{where}: want {{detections: [{{label, score, box}}]}}, or such a list"
      )
    scores: dict[str, float] = {}
    for box in boxes:
      label = box.get("label") if isinstance(box, dict) else None
      score = box.get("score") if isinstance(box, dict) else None
      if not isinstance(label, str) or (
        not isinstance(score, int | float) or isinstance(score, bool)
      ):
        raise UserError(f"{where}: want a label and a score, got {box!r:.80}")
      for name in self._names(label):
        scores[name] = max(scores.get(name, 0.0), float(score))
    queries = row.get("queries")
    if queries is not None:
      if not isinstance(queries, list):
        raise UserError(f"{where}: queries: want a list of words")
      queries = {name for word in queries for name in self._names(str(word))}
    self._scores[key], self._queries[key] = scores, queries

  def _names(self, label: str) -> set[str]:
    return {m.object for m in self.setting.vocabulary.mentions(label)}


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
  """(image, row) of a JSON object or of JSON lines.

  Raises:
    UserError: it cannot be read, or has another form.
  """
  try:
    whole = files.parse_json(files.read_text(path))
  except ValueError:
    whole = None
  if isinstance(whole, dict) and "image" not in whole:
    yield from whole.items()
    return
  for number, row in files.json_lines(path):
    try:
      image = row["image"]
    except (TypeError, KeyError) as error:
      raise UserError(
        f"{path}, line {number}: want a JSON object with image and detections"
      ) from error
    yield str(image), row
