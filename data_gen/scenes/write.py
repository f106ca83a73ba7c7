"""Draws whole splits and writes them as COCO and LLaVA-Instruct files."""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_gen.scenes import text
from data_gen.scenes.draw import Camera, draw
from data_gen.scenes.world import KINDS, Mix, Scene, draw_scene, told
from povid_jax import progress
from povid_jax.files import atomic_dir, atomic_write

CHUNK = 128  # pictures per task of the process pool
# of those there, and as many absent, in one question
KINDS_ASKED = 3
CELLS_ASKED = 4


@dataclasses.dataclass(frozen=True)
class Split:
  """One split: its name, how many pictures, and how scenes are mixed."""

  name: str
  count: int
  mix: Mix
  careless: float = 0.0  # see world.told


@dataclasses.dataclass(frozen=True)
class Picture:
  """A drawn picture: what it shows, where its file is, the objects' boxes."""

  image_id: int
  file_name: str
  scene: Scene
  boxes: list[tuple[float, float, float, float]]
  samples: list[dict[str, Any]]


def write_world(
  out: str | Path, seed: int, splits: list[Split], camera: Camera, workers: int
) -> None:
  """Writes images/, annotations/ and one LLaVA-Instruct JSON per split.

  The same arguments give the same bytes, whatever the number of workers.

  Raises:
    UserError: `out` holds something already, or cannot be written to.
  """
  with atomic_dir(out) as folder:
    tasks = list(_tasks(folder, seed, splits, camera))
    total = sum(split.count for split in splits)
    pictures: dict[str, list[Picture]] = {split.name: [] for split in splits}
    with progress.bar(total=total, desc="scenes", unit="pictures") as bar:
      for name, chunk in _run(tasks, workers):
        pictures[name] += chunk
        bar.update(len(chunk))
    for name, rows in pictures.items():
      _write_split(folder, name, rows)


_Task = tuple[Path, int, int, Split, Camera, range]


def _tasks(
  folder: Path, seed: int, splits: list[Split], camera: Camera
) -> Iterator[_Task]:
  for number, split in enumerate(splits):
    (folder / "images" / split.name).mkdir(parents=True)
    for start in range(0, split.count, CHUNK):
      indices = range(start, min(start + CHUNK, split.count))
      yield folder, seed, number, split, camera, indices


def _run(
  tasks: list[_Task], workers: int
) -> Iterator[tuple[str, list[Picture]]]:
  if workers <= 1:
    yield from map(_draw_chunk, tasks)
    return
  # Spawned, not forked: the caller may have threads (JAX, a test runner).
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
    yield from pool.map(_draw_chunk, tasks)


def _draw_chunk(task: _Task) -> tuple[str, list[Picture]]:
  folder, seed, number, split, camera, indices = task
  rows = []
  for index in indices:
    # Each picture has its own generator, so that chunks can run anywhere.
    rng = np.random.default_rng([seed, number, index])
    scene = draw_scene(rng, split.mix)
    image, boxes = draw(scene, camera, rng)
    file_name = f"{split.name}/{index:06d}.jpg"
    image.save(folder / "images" / file_name, "JPEG", quality=92, subsampling=0)
    image_id = number * 1_000_000 + index
    name = f"{split.name}-{index:06d}"
    samples = _samples(rng, split, name, scene)
    rows.append(Picture(image_id, file_name, scene, boxes, samples))
  return split.name, rows


def _samples(
  rng: np.random.Generator, split: Split, name: str, scene: Scene
) -> list[dict[str, Any]]:
  """The conversations about one picture."""
  image = f"{split.name}/{name.rsplit('-', 1)[1]}.jpg"
  if split.name == "pretrain":
    cells = (text.CELLS, text.cell_by_cell(scene))
    turns = {"cells": [cells, text.which_of(rng, scene, CELLS_ASKED)]}
  else:
    said = told(rng, scene, split.careless)
    turns = {
      "description": [(text.DESCRIBE, text.DESCRIPTIONS[text.DESCRIBE](said))]
    }
    if rng.random() < 0.5:
      other = list(text.DESCRIPTIONS)[1:]
      prompt = other[rng.integers(len(other))]
      turns["retelling"] = [(prompt, text.DESCRIPTIONS[prompt](said))]
    more = text.which_of(rng, scene, KINDS_ASKED)
    if rng.random() < 0.5:
      more = text.reasoning(rng, scene)
    turns["questions"] = [text.yes_no(rng, scene), more]
  return [
    {
      "id": f"{name}-{category}",
      "image": image,
      "category": category,
      "conversations": _conversation(turns),
    }
    for category, turns in turns.items()
  ]


def _conversation(turns: list[text.Turn]) -> list[dict[str, str]]:
  rows = []
  for question, answer in turns:
    value = question if rows else f"<image>\n{question}"
    rows.append({"from": "human", "value": value})
    rows.append({"from": "gpt", "value": answer})
  return rows


def _write_split(folder: Path, name: str, pictures: list[Picture]) -> None:
  samples = [sample for picture in pictures for sample in picture.samples]
  _write_json(folder / f"{name}.json", samples)
  annotations = folder / "annotations"
  _write_json(annotations / f"instances_{name}.json", _instances(pictures))
  _write_json(annotations / f"captions_{name}.json", _captions(pictures))


def _write_json(path: Path, value: Any) -> None:
  with atomic_write(path) as file:
    # not json.dump, which has no C code and takes twenty times as long
    file.write(json.dumps(value) + os.linesep)


def _images(pictures: list[Picture]) -> list[dict[str, Any]]:
  return [
    {"id": picture.image_id, "file_name": picture.file_name}
    for picture in pictures
  ]


def _instances(pictures: list[Picture]) -> dict[str, Any]:
  rows = []
  for picture in pictures:
    for thing, box in zip(picture.scene.things, picture.boxes, strict=True):
      rows.append(
        {
          "id": len(rows) + 1,
          "image_id": picture.image_id,
          "category_id": KINDS[thing.kind][0],
          "bbox": box,
          "area": box[2] * box[3],
          "iscrowd": 0,
          "color": thing.color,
        }
      )
  categories = [
    {"id": number, "name": name, "supercategory": group}
    for name, (number, group) in KINDS.items()
  ]
  return {
    "images": _images(pictures),
    "annotations": rows,
    "categories": categories,
  }


def _captions(pictures: list[Picture]) -> dict[str, Any]:
  rows = [
    (picture.image_id, caption)
    for picture in pictures
    for caption in text.captions(picture.scene)
  ]
  return {
    "images": _images(pictures),
    "annotations": [
      {"id": number + 1, "image_id": image_id, "caption": caption}
      for number, (image_id, caption) in enumerate(rows)
    ],
  }
