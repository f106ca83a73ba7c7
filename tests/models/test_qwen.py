"""Qwen2.5-VL against transformers on random weights, float32."""

import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from povid_jax.data import layout as layout_lib  # noqa: E402
from povid_jax.models import params as params_lib  # noqa: E402
from povid_jax.models import qwen_vision  # noqa: E402
from povid_jax.weights.load import open_checkpoint  # noqa: E402
from tests import qwen_models  # noqa: E402
from tests.qwen_models import picture  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  "ignore::DeprecationWarning", "ignore::FutureWarning"
)
# several windows and ragged edges, smaller than a window, a tall one
PICTURES = [picture(60, 44), picture(20, 15, 1), picture(33, 101, 2)]


@pytest.fixture(scope="module")
def models():
  """(torch model, our graph, our parameters, config) of the same weights."""
  theirs = qwen_models.qwen()
  with tempfile.TemporaryDirectory() as folder:
    theirs.save_pretrained(folder)
    qwen_models.processor().save_pretrained(folder)
    source = open_checkpoint(folder)
    params = source.params(np.float32)
  graph, shapes = params_lib.abstract(source.config)
  assert {k: v.shape for k, v in shapes.items()} == {
    k: v.shape for k, v in params.items()
  }
  return theirs, graph, jax.tree.map(jnp.asarray, params), source.config


def _pack(layout, pictures, extent) -> dict:
  """Rows of pictures as arrays [B, ...]."""
  rows = [layout.pack(layout.cut(some), extent) for some in pictures]
  return jax.tree.map(lambda *x: np.stack(x), *rows)


@functools.partial(jax.jit, static_argnums=0)
def _features(graph, params, images):
  return params_lib.merge(graph, params).encode_images(images)


def test_features_of_each_picture(models):
  """Several pictures in a row, windows that cross blocks, padding behind."""
  theirs, graph, params, config = models
  layout = layout_lib.of(config)
  out = qwen_models.processor()(images=PICTURES, return_tensors="pt")
  with torch.no_grad():
    want = theirs.model.visual(out["pixel_values"], out["image_grid_thw"])
  want = want.pooler_output.numpy()
  extent = layout_lib.total(layout.measure([p.size for p in PICTURES]))
  wide = extent._replace(tiles=extent.tiles + 70, tokens=extent.tokens + 5)
  images = _pack(layout, [PICTURES], wide)
  got = _features(graph, params, images)[0]
  assert extent.tokens == len(want)
  assert np.abs(got[: len(want)] - want).max() <= 1e-5 * np.abs(want).max()


def test_features_do_not_depend_on_the_batch(models, monkeypatch):
  """Rows of a batch, and whole pictures looked at in parts."""
  _, graph, params, config = models
  layout = layout_lib.of(config)
  extent = layout_lib.cover(layout.measure([p.size for p in PICTURES]))
  pack = lambda pictures: _pack(layout, [[p] for p in pictures], extent)
  alone = [_features(graph, params, pack([p]))[0] for p in PICTURES]
  monkeypatch.setattr(qwen_vision, "_QUERIES", 24)
  apart = jax.jit(lambda x: params_lib.merge(graph, params).encode_images(x))
  got = apart(pack(PICTURES))
  for image, one, row in zip(PICTURES, alone, got, strict=True):
    count = layout.measure([image.size])[0].tokens
    assert np.abs(one - row)[:count].max() <= 1e-6
