"""Real photographs that ship inside scikit-image, and samples about them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

NAMES = ("rocket.jpg", "astronaut.png", "chelsea.png", "coffee.png")


def folder() -> Path:
  import skimage

  return Path(skimage.__file__).parent / "data"


def make_images(target: Path, count: int = 8) -> list[str]:
  """JPEG and PNG files of a few hundred pixels; returns their names."""
  target.mkdir(parents=True, exist_ok=True)
  names = []
  for i in range(count):
    with Image.open(folder() / NAMES[i % len(NAMES)]) as image:
      width = 96 + 8 * i
      image = image.convert("RGB").resize((width, 80))
    names.append(f"{i}.png" if i % 3 == 0 else f"{i}.jpg")
    image.save(target / names[-1])
  return names


def row(id: str, image: str | None, chosen: str, rejected: str | None) -> dict:
  """One sample in the released preference format."""
  question = "Describe this image in detail."
  human = question if image is None else f"<image>\n{question}"

  def talk(answer: str) -> list[dict]:
    return [{"from": "human", "value": human}, {"from": "gpt", "value": answer}]

  out = {"id": id, "conversations": talk(chosen), "category": "captioning"}
  if image is not None:
    out["image"] = image
  if rejected is not None:
    out["rejected_conversations"] = talk(rejected)
  return out


def write_rows(path: Path, rows: list[dict]) -> Path:
  path.write_text("\n".join(map(json.dumps, rows)) + "\n")
  return path


def make_pairs(root: Path, count: int = 24, images: int = 8) -> Path:
  """root/images and root/pairs.jsonl."""
  names = make_images(root / "images", images)
  rows = [
    row(
      f"s{i}",
      names[i % len(names)],
      f"Picture {i} shows an orange suit.",
      f"Picture {i} shows a blue suit.",
    )
    for i in range(count)
  ]
  return write_rows(root / "pairs.jsonl", rows)


@pytest.fixture(scope="session")
def photos() -> SimpleNamespace:
  """The functions above; a conftest cannot be imported."""
  return SimpleNamespace(
    folder=folder,
    make_images=make_images,
    row=row,
    write_rows=write_rows,
    make_pairs=make_pairs,
  )
