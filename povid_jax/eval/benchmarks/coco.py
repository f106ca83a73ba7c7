"""COCO-format annotations: which objects a picture holds, what people said."""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.eval import needs
from povid_jax.eval.protocol import Need

INSTANCES = Need(
  "instances_*.json",
  "COCO 2014 annotations_trainval2014.zip, https://cocodataset.org/#download",
)
CAPTIONS = Need(
  "captions_*.json",
  "COCO 2014 annotations_trainval2014.zip, https://cocodataset.org/#download",
)


@dataclass
class Instances:
  """Objects of pictures.

  Attributes:
    files: image id -> file name.
    objects: image id -> category of every annotated instance, in file order.
    categories: every category name, in file order.
  """

  files: dict[int, str]
  objects: dict[int, list[str]]
  categories: list[str]


def read_instances(paths: Iterable[Path]) -> Instances:
  """Joins instance files (train and val); a repeated image keeps one name.

  Raises:
    UserError: a file is not JSON, lacks a field, or names an unknown category.
  """
  found = Instances({}, {}, [])
  for path in sorted(paths):
    data = needs.read_json(path, _slim)
    for image in _list(data, "images", path):
      image_id = _field(image, "id", path)
      found.files[image_id] = str(image.get("file_name", image_id))
      found.objects.setdefault(image_id, [])
    names = {
      _field(category, "id", path): str(_field(category, "name", path))
      for category in _list(data, "categories", path)
    }
    known = set(found.categories)
    found.categories += [n for n in names.values() if n not in known]
    for annotation in _list(data, "annotations", path):
      category = _field(annotation, "category_id", path)
      if category not in names:
        raise UserError(
          f"{path}: annotation {annotation.get('id')} has category_id "
          f"{category}, which is not among the categories"
        )
      image_id = _field(annotation, "image_id", path)
      found.objects.setdefault(image_id, []).append(names[category])
  return found


def read_captions(
  paths: Iterable[Path], wanted: Container[int | str] | None = None
) -> dict[int, list[str]]:
  """image id -> reference captions, of the wanted images or of all."""
  captions: dict[int, list[str]] = {}
  for path in sorted(paths):
    for annotation in _list(needs.read_json(path), "annotations", path):
      image_id = _field(annotation, "image_id", path)
      if wanted is None or image_id in wanted:
        text = str(_field(annotation, "caption", path))
        captions.setdefault(image_id, []).append(text)
  return captions


def _slim(entry: dict[str, Any]) -> dict[str, Any]:
  # outlines are nine tenths of COCO's files and would fill the memory
  entry.pop("segmentation", None)
  return entry


def _list(data: Any, name: str, path: Path) -> list[dict[str, Any]]:
  value = data.get(name) if isinstance(data, dict) else None
  if not isinstance(value, list):
    raise UserError(
      f"{path}: no list {name!r}; expected COCO's annotation format"
    )
  return value


def _field(entry: dict[str, Any], name: str, path: Path) -> Any:
  if name not in entry:
    raise UserError(
      f"{path}: an entry (id {entry.get('id')}) has no field {name!r}"
    )
  return entry[name]
