"""What the tests of benchmarks that look inside the model share."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from data_gen import tokenizer as tokenizers
from povid_jax.checkpoints import restore
from povid_jax.generate import answering
from povid_jax.models import params as params_lib
from povid_jax.models.config import LoraConfig
from povid_jax.models.presets import PRESETS
from tests import small_world

WORDS = (
  "a cat sits on the red chair. a dog stands by the blue table. what is in the "
  "picture? describe this image."
)


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
  """Compiling for the eight devices of the other tests takes minutes here."""
  with small_world.one_device():
    yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A model folder of the test preset, with pictures beside it."""
  root = tmp_path_factory.mktemp("inside")
  (root / "tokenizer").mkdir()
  built = tokenizers.build([WORDS], 300)
  built.save(str(root / "tokenizer" / "tokenizer.json"))
  tokenizers._write_config(root / "tokenizer")
  rng = np.random.default_rng(0)
  _, shapes = params_lib.abstract(PRESETS["test"])
  weights = {
    path: rng.normal(0, 0.2, leaf.shape).astype(np.float32)
    for path, leaf in shapes.items()
  }
  restore.save_model_folder(
    root / "model",
    PRESETS["test"],
    weights,
    template="short",
    tokenizer=root / "tokenizer",
  )
  for i in range(3):
    pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
    (root / "images").mkdir(exist_ok=True)
    Image.fromarray(pixels).save(root / "images" / f"{i}.png")
  return root


@pytest.fixture(scope="module")
def base(folder: Path) -> answering.Policy:
  return answering.load_policy(str(folder / "model"))


@pytest.fixture(scope="module")
def tuned(base: answering.Policy) -> answering.Policy:
  """The same with an adapter that does something."""
  lora = LoraConfig(rank=2, alpha=4.0)
  graph, shapes = params_lib.abstract(base.config, lora)
  rng = np.random.default_rng(1)
  added = {
    path: jnp.array(rng.normal(0, 0.3, leaf.shape), jnp.float32)
    for path, leaf in shapes.items()
    if params_lib.is_lora(path)
  }
  params = dict(sorted({**base.params, **added}.items()))
  weights = dataclasses.replace(base.weights, params=params, lora=lora)
  return dataclasses.replace(base, weights=weights, graph=graph, params=params)
