"""Builds POPE questions from any COCO-format instance annotation.

The three ways of choosing absent objects are the paper's (arXiv 2305.10355):

  random        any object that the picture lacks
  popular       the objects found in most pictures, most frequent first
  adversarial   for each present object, the one most often found beside it

Present objects are the same in all three splits. Every present object is
followed by an absent one; no object is asked about twice for a picture.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.eval.benchmarks import coco
from povid_jax.eval.benchmarks.prompts import SHORT_ANSWER
from povid_jax.files import atomic_write

SPLITS = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class Statistics:
  """Which objects pictures hold, and which together.

  Attributes:
    order: objects, found in most pictures first (ties: by name).
    together: object -> other objects, most often found together first.
  """

  order: tuple[str, ...]
  together: Mapping[str, tuple[str, ...]]


def statistics(
  objects: Iterable[Iterable[str]], categories: Sequence[str]
) -> Statistics:
  """Counts pictures, not instances; every category is in every order."""
  alone: Counter[str] = Counter({name: 0 for name in categories})
  pairs = {name: Counter({n: 0 for n in categories}) for name in categories}
  for held in objects:
    present = sorted(set(held))
    alone.update(present)
    for name in present:
      pairs[name].update(present)

  def ranked(counts: Counter[str], but: str | None = None) -> tuple[str, ...]:
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return tuple(name for name in names if name != but)

  together = {name: ranked(pairs[name], name) for name in categories}
  return Statistics(ranked(alone), together)


def question(name: str) -> str:
  """The question about an object: "Is there an apple in the image?"."""
  article = "an" if name[:1].lower() in "aeiou" else "a"
  return f"Is there {article} {name} in the image?"


def absent(
  split: str,
  present: Sequence[str],
  held: set[str],
  stats: Statistics,
  rng: random.Random,
) -> list[str]:
  """One object that the picture lacks per present object, all different.

  Args:
    present: the objects asked about.
    held: everything that the picture holds.

  Returns fewer objects where the categories run out.
  """
  free = [name for name in stats.order if name not in held]
  if split == "random":
    return rng.sample(sorted(free), min(len(present), len(free)))
  if split == "popular":
    return free[: len(present)]
  chosen: list[str] = []
  for name in present:
    for other in stats.together[name]:
      if other not in held and other not in chosen:
        chosen.append(other)
        break
  return chosen


def build(
  instances: coco.Instances,
  stats: Statistics,
  images: int,
  per_image: int,
  seed: int,
) -> dict[str, list[dict[str, Any]]]:
  """split -> rows {question_id, image, text, label} in the official layout.

  Pictures with fewer than per_image / 2 kinds of objects, or without as many
  absent ones, are passed over.

  Raises:
    UserError: `per_image` is odd, or there are too few pictures.
  """
  if per_image < 2 or per_image % 2:
    raise UserError(
      f"--per-image {per_image}: want an even number, because half of the "
      "questions have the answer yes"
    )
  half, rng = per_image // 2, random.Random(seed)
  every = len(stats.order)
  usable = [
    image_id
    for image_id, held in sorted(instances.objects.items())
    if image_id in instances.files and half <= len(set(held)) <= every - half
  ]
  if len(usable) < images:
    raise UserError(
      f"--images {images}: only {len(usable)} of {len(instances.files)} "
      f"pictures hold at least {half} kinds of objects and lack {half}"
    )
  rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
  for image_id in sorted(rng.sample(usable, images)):
    held = set(instances.objects[image_id])
    present = rng.sample(sorted(held), half)
    for split in SPLITS:
      lacking = absent(split, present, held, stats, rng)
      for name, label in _alternate(present, lacking):
        rows[split].append(
          {
            "question_id": len(rows[split]) + 1,
            "image": instances.files[image_id],
            "text": question(name),
            "label": label,
          }
        )
  return rows


def _alternate(
  present: Sequence[str], lacking: Sequence[str]
) -> list[tuple[str, str]]:
  pairs = zip(present, lacking, strict=True)
  return [item for yes, no in pairs for item in ((yes, "yes"), (no, "no"))]


def write(rows: Mapping[str, Sequence[Mapping[str, Any]]], out: Path) -> None:
  """Leaves coco_pope_<split>.json and llava_pope_test.jsonl in a folder."""
  merged = []
  for split, entries in rows.items():
    _write_lines(out / f"coco_pope_{split}.json", entries)
    for entry in entries:
      merged.append(
        {
          "question_id": len(merged) + 1,
          "image": entry["image"],
          "text": entry["text"] + SHORT_ANSWER,
          "category": split,
        }
      )
  _write_lines(out / "llava_pope_test.jsonl", merged)


def _write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
  with atomic_write(path) as file:
    for entry in entries:
      file.write(json.dumps(entry) + "\n")
