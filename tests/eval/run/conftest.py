"""Drawn benchmarks, and a model with random weights."""

import json

import numpy as np
import pytest
from PIL import Image

from povid_jax.eval import __main__ as command


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """DATA with four drawn pictures: chair/, pope/ and images/."""
  data = tmp_path_factory.mktemp("data")
  (data / "images").mkdir()
  for i in range(4):
    Image.new("RGB", (40, 30), (60 * i, 40, 90)).save(data / f"images/{i}.png")
  images = [{"id": i, "file_name": f"{i}.png"} for i in range(4)]
  names = ("dog", "cat", "bus", "cup", "kite", "book")
  categories = [{"id": i, "name": name} for i, name in enumerate(names)]
  held = [
    {"image_id": i, "category_id": c} for i in range(4) for c in (0, i + 1)
  ]
  (data / "chair").mkdir()
  (data / "chair/instances_val.json").write_text(
    json.dumps(
      {"images": images, "annotations": held, "categories": categories}
    )
  )
  (data / "chair/captions_val.json").write_text(
    json.dumps({"images": images, "annotations": []})
  )
  argv = ["build-pope", f"--instances={data}/chair/instances_val.json"]
  argv += [f"--out={data}/pope", "--images=4", "--per-image=4"]
  assert command.main(argv) == 0
  return data


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A model folder of the test preset with random weights."""
  from data_gen.__main__ import main as data_gen
  from povid_jax.checkpoints import restore
  from povid_jax.models import params
  from povid_jax.models.presets import preset

  root = tmp_path_factory.mktemp("model")
  sample = {
    "id": "a",
    "conversations": [
      {"from": "human", "value": "Is there a dog in the image? Describe it."},
      {"from": "gpt", "value": "Yes, a dog and a cat beside a bus and a cup."},
    ],
  }
  (root / "text.json").write_text(json.dumps([sample]))
  argv = ["tokenizer", f"--input={root}/text.json", f"--out={root}/tokenizer"]
  assert data_gen([*argv, "--vocab-size=300"]) == 0
  _, shapes = params.abstract(preset("test"))
  random = np.random.default_rng(0)
  weights = {
    path: random.normal(0, 0.3, leaf.shape).astype(np.float32)
    for path, leaf in shapes.items()
  }
  restore.save_model_folder(
    root / "model",
    preset("test"),
    weights,
    template="short",
    tokenizer=root / "tokenizer",
  )
  return root / "model"
