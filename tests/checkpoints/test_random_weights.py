"""Weights that are drawn while they are written."""

import numpy as np
import pytest

from povid_jax.checkpoints import random_weights
from povid_jax.models import params, presets
from tests import small_world


@pytest.fixture(scope="module")
def streamed():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(random_weights, "_SMALL", 0)
    pieces = random_weights.draw(small_world.MODEL, 3, np.float32)
    return {
      path: np.stack(list(p.rows)) if p.stacked else list(p.rows)[0]
      for path, p in pieces.items()
    }


@pytest.mark.slow
def test_they_have_the_shapes_and_spread_of_a_model_that_is_drawn(streamed):
  whole = random_weights.draw(small_world.MODEL, 3, np.float32)
  _, shapes = params.abstract(small_world.MODEL)
  assert list(streamed) == list(shapes)
  for path, values in streamed.items():
    assert values.shape == whole[path].shape == shapes[path].shape
    spread = np.std(whole[path])
    assert np.std(values) == pytest.approx(spread, rel=0.5, abs=1e-6), path
    assert np.mean(values) == pytest.approx(
      np.mean(whole[path]), abs=max(float(spread), 1e-6)
    )


@pytest.mark.slow
def test_no_two_layers_are_equal(streamed):
  kernel = streamed["decoder/layers/mlp/up_proj/kernel"]
  assert not np.allclose(kernel[0], kernel[1])


@pytest.mark.parametrize("name", ["llava-1.5-7b", "qwen2.5-vl-3b"])
def test_a_large_model_of_every_family_can_be_drawn(name):
  """Shapes only: nothing of it is drawn before it is written."""
  config = presets.preset(name)
  pieces = random_weights.draw(config, 0, np.float32)
  single = random_weights._of_one_layer(config)
  _, shapes = params.abstract(config)
  _, of_one = params.abstract(single)
  assert set(pieces) == set(shapes) == set(of_one)
  for path, piece in pieces.items():
    want = of_one[path].shape
    assert piece.shape[piece.stacked :] == want[piece.stacked :]
    assert want[0] == 1 or not piece.stacked
