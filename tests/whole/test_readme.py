"""The commands of the README, as they stand there, at toy size.

The pictures are the public-domain photographs inside scikit-image and the
pairs are in the released preference format: real input, end to end.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage

from povid_jax import convert
from tests import small_tokenizer

ROOT = Path(__file__).parents[2]
PHOTOS = {
  "astronaut.png": "A woman in an orange suit is in front of a flag.",
  "chelsea.png": "A cat with green eyes lies on a table.",
  "coffee.png": "A cup of coffee stands on a table beside a spoon.",
  "rocket.jpg": "A rocket stands on a pad beside a tower at night.",
}
# What the README names, and what is put in its place to be small and quick.
SHRINK = {
  "--topology=v5e:4x4": "--topology=cpu:1 --preset=test",
  "--config.init=": "--config.mesh.fsdp=1 --config.batch_size=2 "
  "--config.steps=2 --config.lora.rank=4 --config.init=",
  "--benchmarks=chair,pope": "--benchmarks=chair,pope --max-new-tokens=4",
}


def commands(title: str) -> list[str]:
  """The `python -m` lines of a section of the README."""
  text = (ROOT / "README.md").read_text()
  section = text.split(f"## {title}\n")[1].split("\n## ")[0]
  joined = re.sub(r"\\\n\s*", "", section)
  lines = [line.strip() for line in joined.splitlines()]
  return [line for line in lines if line.startswith("python -m ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
  """The names that the README's commands start from."""
  tokenizer = small_tokenizer.write(tmp_path / "tokenizer")
  base = tmp_path / "base"
  made = [f"--tokenizer={tokenizer}", "--preset=test", "--template=short"]
  assert convert.main(["init", str(base), *made]) == 0
  checkpoint = tmp_path / "llava-1.5-7b-hf"
  assert convert.main(["to-hf", str(base), str(checkpoint)]) == 0
  pictures = Path(skimage.__file__).parent / "data"
  (tmp_path / "coco" / "annotations").mkdir(parents=True)
  os.symlink(pictures, tmp_path / "coco" / "train2017")
  _write_samples(tmp_path)
  _write_benchmarks(tmp_path)
  os.symlink(ROOT / "configs", tmp_path / "configs")
  return tmp_path


def _write_samples(folder: Path) -> None:
  samples = [
    {
      "id": name,
      "image": name,
      "conversations": [
        {"from": "human", "value": "<image>\nDescribe this image."},
        {"from": "gpt", "value": answer},
      ],
    }
    for name, answer in PHOTOS.items()
  ]
  (folder / "llava_instruct_150k.json").write_text(json.dumps(samples))


def _coco(names: list[str]) -> tuple[dict, dict]:
  images = [{"id": i, "file_name": n} for i, n in enumerate(names, 1)]
  categories = [{"id": 17, "name": "cat"}, {"id": 47, "name": "cup"}]
  kinds = {"chelsea.png": 17, "coffee.png": 47}
  boxes = [
    {"id": i, "image_id": image["id"], "category_id": kinds[image["file_name"]]}
    for i, image in enumerate(images, 1)
    if image["file_name"] in kinds
  ]
  captions = [
    {"id": i["id"], "image_id": i["id"], "caption": PHOTOS[i["file_name"]]}
    for i in images
  ]
  instances = {"images": images, "annotations": boxes, "categories": categories}
  return instances, {"images": images, "annotations": captions}


def _write_benchmarks(folder: Path) -> None:
  names = list(PHOTOS)
  instances, captions = _coco(names)
  trained = folder / "coco" / "annotations" / "instances_train2017.json"
  trained.write_text(json.dumps(instances))
  chair = folder / "benchmarks_data" / "chair"
  chair.mkdir(parents=True)
  (chair / "instances_val2014.json").write_text(json.dumps(instances))
  (chair / "captions_val2014.json").write_text(json.dumps(captions))
  pope = folder / "benchmarks_data" / "pope"
  pope.mkdir()
  for split in ("random", "popular", "adversarial"):
    rows = [
      {
        "question_id": i,
        "image": name,
        "text": f"Is there a {thing} in the image?",
        "label": label,
      }
      for i, (name, thing, label) in enumerate(
        [("chelsea.png", "cat", "yes"), ("coffee.png", "cat", "no")]
      )
    ]
    path = pope / f"coco_pope_{split}.json"
    path.write_text("\n".join(map(json.dumps, rows)))
  for benchmark in (chair, pope):
    os.symlink(folder / "coco" / "train2017", benchmark / "images")


def _run(command: str, folder: Path) -> str:
  for old, new in SHRINK.items():
    command = command.replace(old, new)
  environment = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
  }
  done = subprocess.run(
    [sys.executable, *shlex.split(command)[1:]],
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
  return done.stdout


@pytest.mark.slow
def test_the_example_with_photographs_runs(folder: Path):
  os.symlink(ROOT / "docs", folder / "docs")
  os.symlink(folder / "coco" / "train2017", folder / "photos")
  found = commands("On real photographs")
  assert len(found) == 2
  for command in found:
    _run(command.replace("runs/quickstart/stage1", "base"), folder)
  log = folder / "runs/photos/stage2/metrics/train.jsonl"
  losses = [json.loads(row)["loss"] for row in log.read_text().splitlines()]
  np.testing.assert_allclose(losses[0], np.log(2), atol=1e-3)
  assert len(losses) == 5


@pytest.mark.slow
def test_the_readme_runs(folder: Path):
  found = commands("With LLaVA-1.5")
  assert len(found) >= 10
  for command in found:
    _run(command, folder)
  rows = (folder / "runs/stage2/metrics/train.jsonl").read_text().splitlines()
  losses = [json.loads(row)["loss"] for row in rows]
  # policy == reference at the start: each sigmoid is at ln 2
  np.testing.assert_allclose(losses[0], np.log(2), atol=1e-3)
  assert len(losses) == 2
  assert (folder / "out/llava-povid/config.json").exists()
  assert (folder / "runs/stage2/report.html").exists()
