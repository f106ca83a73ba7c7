"""Explicit attention weights against the forward pass and against loops."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from povid_jax.models.inspect_attention import Looks, look
from povid_jax.models.llava import IMAGE_TOKEN, Llava
from povid_jax.models.params import build
from povid_jax.models.presets import PRESETS

TEST = PRESETS["test"]
WINDOWED = dataclasses.replace(
  TEST, decoder=dataclasses.replace(TEST.decoder, sliding_window=3)
)
TOKENS = TEST.image_tokens  # of one picture


def inputs() -> tuple[jax.Array, ...]:
  """Two rows: an image after BOS and a shorter, padded prefix; 5 tokens."""
  rng = np.random.default_rng(0)
  prefix = rng.integers(3, 300, (2, TOKENS + 6))
  prefix[:, 1 : 1 + TOKENS] = IMAGE_TOKEN
  lengths = np.array([TOKENS + 6, TOKENS + 3])
  prefix[1, lengths[1] :] = 0
  response = rng.integers(3, 300, (2, 5))
  size = TEST.vision.image_size
  images = rng.integers(0, 256, (2, 1, size, size, 3), np.uint8)
  arrays = (prefix, lengths, response)
  return *(jnp.array(x, jnp.int32) for x in arrays), jnp.array(images)


@nnx.jit
def run(model: Llava, prefix, lengths, response, images) -> tuple[Looks, Any]:
  """What `look` sees, and the hidden states of the model's own forward."""
  embeds = model.encode_images(images)
  normal = model.branches(prefix, lengths, response[:, None], embeds)
  return look(model, prefix, lengths, response, images), normal[:, 0]


@pytest.fixture(scope="module", params=[TEST, WINDOWED], ids=["full", "window"])
def seen(request: pytest.FixtureRequest) -> tuple[Looks, jax.Array]:
  return run(build(request.param, seed=1), *inputs())


def test_hidden_states_are_those_of_the_model(seen: tuple) -> None:
  looks, normal = seen
  # float32; the two forms of softmax add up in another order
  np.testing.assert_allclose(looks.hidden, normal, atol=2e-5)


def test_rows_are_distributions_over_what_was_there(seen: tuple) -> None:
  prefix, lengths, _, _ = inputs()
  looks, _ = seen
  weights = np.asarray(looks.weights)
  assert weights.shape == (2, 2, 5, prefix.shape[1] + 5)
  np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
  width = prefix.shape[1]
  for b, length in enumerate(lengths.tolist()):
    assert not weights[:, b, :, length:width].any(), "padding was looked at"
    for c in range(5):
      assert not weights[:, b, c, width + c :].any(), "the future was seen"


def test_share_is_the_mass_on_image_columns(seen: tuple) -> None:
  looks, _ = seen
  columns = looks.weights[..., 1 : 1 + TOKENS].sum(-1)  # [L, B, C]
  np.testing.assert_allclose(
    looks.image_share.mean(axis=2), columns, rtol=1e-5, atol=1e-7
  )


def test_weights_by_hand() -> None:
  """First layer, last row, from the projections with loops over heads."""
  model = build(TEST, seed=1)
  prefix, lengths, response, images = inputs()
  looks, _ = run(model, *inputs())
  config, row = TEST.decoder, 1
  length = int(lengths[row])
  ids = jnp.concatenate([prefix[row, :length], response[row, :4]])[None]
  x = model.embed_prefix(ids, model.encode_images(images)[row : row + 1])[0]
  x = np.asarray(x, np.float64)
  attention = model.decoder.layers.self_attn
  scale = np.asarray(model.decoder.layers.input_layernorm.scale[0])
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps) * scale
  q = x @ np.asarray(attention.q_proj.kernel[0], np.float64)
  k = x @ np.asarray(attention.k_proj.kernel[0], np.float64)
  half = config.head_dim // 2
  angle = np.arange(len(x))[:, None] / config.rope_theta ** (
    np.arange(half) / half
  )

  def turned(x: np.ndarray) -> np.ndarray:
    a, b = x[:, :half], x[:, half:]
    sin, cos = np.sin(angle), np.cos(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)

  rows = []
  for head in range(config.num_heads):
    group = head // (config.num_heads // config.num_kv_heads)
    cut = lambda x, i: x[:, i * config.head_dim : (i + 1) * config.head_dim]
    scores = turned(cut(k, group)) @ turned(cut(q, head))[-1]
    scores = np.exp(scores / np.sqrt(config.head_dim))
    rows.append(scores / scores.sum())
  expected = np.mean(rows, axis=0)
  got = np.asarray(looks.weights[0, row, 4])
  width = prefix.shape[1]
  got = np.concatenate([got[:length], got[width : width + 4]])
  np.testing.assert_allclose(got, expected, rtol=2e-4)
