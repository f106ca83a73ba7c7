"""The model against transformers, layer by layer, on random weights.

Both sides compute in float32; the thresholds leave room for the order of sums
only: an eps, a scale or an activation that is off by little fails them.
"""

import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from povid_jax.generate import slots as slots_lib  # noqa: E402
from povid_jax.generate.decode import Decoding  # noqa: E402
from povid_jax.models import params as params_lib  # noqa: E402
from povid_jax.models.llava import IMAGE_TOKEN  # noqa: E402
from povid_jax.models.vit import normalise  # noqa: E402
from povid_jax.weights.load import open_checkpoint  # noqa: E402
from tests import torch_models  # noqa: E402
from tests.torch_models import IMAGE_ID, SHAPES  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  "ignore::DeprecationWarning", "ignore::FutureWarning"
)
NOT_A_TOKEN = 10**6  # a stop token that is never written


@functools.cache
def _models(shape: str):
  """(torch model, our graph, our parameters, config) of the same weights."""
  theirs = torch_models.llava(shape)
  with tempfile.TemporaryDirectory() as folder:
    theirs.save_pretrained(folder)
    source = open_checkpoint(folder)
    params = source.params(np.float32)
  graph, shapes = params_lib.abstract(source.config)
  assert {k: v.shape for k, v in shapes.items()} == {
    k: v.shape for k, v in params.items()
  }
  return theirs, graph, jax.tree.map(jnp.asarray, params), source.config


def _images(config, count: int, seed: int = 0) -> np.ndarray:
  size = config.vision.image_size
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, size, size, 3), np.uint8)


def _pixels(images: np.ndarray) -> torch.Tensor:
  values = np.asarray(normalise(jnp.asarray(images)))
  return torch.from_numpy(values.transpose(0, 3, 1, 2).copy())


def _relative(got, want) -> float:
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def _ids(config, images: int, seed: int = 1) -> np.ndarray:
  rng = np.random.default_rng(seed)
  picture = np.full(config.image_tokens, IMAGE_TOKEN)
  parts = [np.array([1])]
  for _ in range(images):
    parts += [picture, rng.integers(3, 80, 4)]
  return np.concatenate([*parts, rng.integers(3, 80, 6)])


def _theirs(model, ids: np.ndarray, images: np.ndarray, **options):
  tokens = torch.from_numpy(np.where(ids == IMAGE_TOKEN, IMAGE_ID, ids))[None]
  extra = dict(pixel_values=_pixels(images)) if len(images) else {}
  with torch.no_grad():
    return model(input_ids=tokens, **extra, **options)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _vision(graph, params, images, layers: int):
  """Hidden states after that many layers of the tower."""
  tower = params_lib.merge(graph, params).vision
  return tower.hidden_states(normalise(images), layers)


@functools.partial(jax.jit, static_argnums=0)
def _run(graph, params, ids, images):
  """Everything at once, so that each shape compiles once."""
  model = params_lib.merge(graph, params)
  features = model.vision(normalise(images[0]))
  embeds = model.projector(features)[None]
  hidden, cache = model.prefill(ids, embeds.reshape(1, -1, embeds.shape[-1]))
  return dict(
    features=features,
    projected=embeds[0],
    keys=cache.keys,
    values=cache.values,
    hidden=hidden,
    logits=model.decoder.logits(hidden),
  )


@functools.partial(jax.jit, static_argnums=0)
def _branch_logits(graph, params, prefix, prefix_len, branches, images):
  model = params_lib.merge(graph, params)
  embeds = model.encode_images(images)
  hidden = model.branches(prefix, prefix_len, branches, embeds)
  return model.decoder.logits(hidden)


def test_vision_layer_by_layer():
  theirs, graph, params, config = _models("large_image")
  images = _images(config, 2)
  with torch.no_grad():
    states = theirs.model.vision_tower(
      _pixels(images), output_hidden_states=True
    ).hidden_states
  for layer, want in enumerate(states):
    got = _vision(graph, params, images, layer)
    assert _relative(got, want.numpy()) <= 1e-5, f"after vision layer {layer}"
  assert config.vision.num_used_layers == config.vision.num_layers - 1


_RARE = ("linear_rope", "head_dim", "qwen2", "window")


@pytest.mark.parametrize(
  "shape",
  [pytest.param(s, marks=[pytest.mark.slow] * (s in _RARE)) for s in SHAPES],
)
def test_layer_by_layer(shape):
  theirs, graph, params, config = _models(shape)
  ids, images = _ids(config, 1), _images(config, 1)
  got = _run(graph, params, ids[None], images[None])
  with torch.no_grad():
    tower = theirs.model.vision_tower(
      _pixels(images), output_hidden_states=True
    )
    projected = theirs.get_image_features(_pixels(images)).pooler_output[0]
  features = tower.hidden_states[config.vision.feature_layer][:, 1:]
  assert _relative(got["features"], features.numpy()) <= 1e-5
  assert _relative(got["projected"][0], projected.numpy()) <= 1e-5
  out = _theirs(theirs, ids, images, use_cache=True, output_hidden_states=True)
  kept = config.decoder.sliding_window  # their cache drops what is older
  for layer, cached in enumerate(out.past_key_values.layers):
    for name, want in (("keys", cached.keys), ("values", cached.values)):
      ours = np.moveaxis(np.asarray(got[name][layer]), 1, 2)
      ours = ours[:, :, -(kept - 1) :] if kept else ours
      assert _relative(ours, want.numpy()) <= 1e-5, f"{name} of layer {layer}"
  last = config.decoder.num_layers - 1
  final = out.hidden_states[-1].numpy()
  assert _relative(got["hidden"], final) <= 1e-5, f"after layer {last}"
  assert np.abs(got["logits"] - out.logits.numpy()).max() <= 2e-4
  assert _relative(got["logits"], out.logits.numpy()) <= 1e-5


@pytest.mark.parametrize(
  ("shape", "images"),
  [("gqa", 0), ("gqa", 2), ("large_image", 1), ("window", 1)],
)
def test_branch_logits(shape, images):
  """A padded prefix with two branches, against one plain sequence for each."""
  theirs, graph, params, config = _models(shape)
  prefix, pictures = _ids(config, images), _images(config, images)
  branches = np.random.default_rng(2).integers(3, 80, (2, 9))
  padded = np.pad(prefix, (0, 5), constant_values=7)
  got = _branch_logits(
    graph,
    params,
    padded[None],
    np.array([len(prefix)]),
    branches[None],
    pictures[None],
  )[0]
  for branch, ours in zip(branches, got, strict=True):
    whole = np.concatenate([prefix, branch])
    want = _theirs(theirs, whole, pictures).logits[0].numpy()
    want = want[len(prefix) - 1 : -1]
    assert np.abs(ours - want).max() <= 2e-4
    assert _relative(ours, want) <= 1e-5


@pytest.mark.parametrize(("shape", "images"), [("gqa", 2), ("mistral", 0)])
def test_greedy_output_is_identical(shape, images):
  theirs, graph, params, config = _models(shape)
  prefix, pictures = _ids(config, images), _images(config, images)
  tokens = torch.from_numpy(np.where(prefix == IMAGE_TOKEN, IMAGE_ID, prefix))
  extra = dict(pixel_values=_pixels(pictures)) if images else {}
  theirs.generation_config.eos_token_id = None
  written = theirs.generate(
    input_ids=tokens[None],
    attention_mask=torch.ones_like(tokens[None]),
    max_new_tokens=32,
    do_sample=False,
    pad_token_id=0,
    **extra,
  )
  how = dict(
    decoding=Decoding(max_new_tokens=32), stops=slots_lib.Stops((NOT_A_TOKEN,))
  )
  ids = np.pad(prefix, (0, 3))[None]
  state = slots_lib.empty(
    graph,
    params,
    np.zeros(2, np.uint32),
    slots=1,
    branches=1,
    prefix=ids.shape[1],
    length=32,
  )
  state = slots_lib.admit(
    *(graph, params, state, np.array([0]), ids, np.array([len(prefix)])),
    *(pictures[None], np.zeros((1, 1), np.uint32)),
    **how,
  )
  got = slots_lib.advance(graph, params, state, jnp.int32(1), **how).out[0]
  assert got[0].tolist() == written[0, -32:].tolist()
  # a model that repeats one token would say little
  assert len(set(got[0].tolist())) > 3
