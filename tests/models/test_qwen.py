"""Qwen2.5-VL against transformers on random weights, float32."""

import dataclasses
import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from povid_jax.data import layout as layout_lib  # noqa: E402
from povid_jax.generate import slots as slots_lib  # noqa: E402
from povid_jax.generate.decode import Decoding  # noqa: E402
from povid_jax.models import params as params_lib  # noqa: E402
from povid_jax.models import qwen_vision  # noqa: E402
from povid_jax.models.llava import IMAGE_TOKEN  # noqa: E402
from povid_jax.weights.load import open_checkpoint  # noqa: E402
from tests import qwen_models, qwen_world  # noqa: E402
from tests.qwen_world import CONFIG, IMAGE_ID, MIXED, PICTURES  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  "ignore::DeprecationWarning", "ignore::FutureWarning"
)
NOT_A_TOKEN = 10**6
LAYOUT = layout_lib.of(CONFIG)


def _opened(theirs):
  """(torch model, our graph, our parameters) of the same weights."""
  with tempfile.TemporaryDirectory() as folder:
    theirs.save_pretrained(folder)
    qwen_models.processor().save_pretrained(folder)
    source = open_checkpoint(folder)
    params = source.params(np.float32)
  graph, shapes = params_lib.abstract(source.config)
  assert {k: v.shape for k, v in shapes.items()} == {
    k: v.shape for k, v in params.items()
  }
  alike = dataclasses.replace(source.config, vision=CONFIG.vision)
  assert alike == CONFIG
  return theirs, graph, jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope="module")
def models():
  return _opened(qwen_models.qwen())


def _inputs(ids: np.ndarray, pictures) -> dict:
  """What their model takes for one sequence."""
  is_image = ids == IMAGE_TOKEN
  given = {
    "input_ids": torch.tensor([np.where(is_image, IMAGE_ID, ids).tolist()]),
    "mm_token_type_ids": torch.from_numpy(is_image.astype(np.int32))[None],
  }
  if pictures:
    given |= qwen_models.processor()(images=pictures, return_tensors="pt")
  return given


def _theirs(model, ids, pictures):
  model.model.rope_deltas = None
  with torch.no_grad():
    return model(**_inputs(ids, pictures)).logits[0].numpy()


@functools.partial(jax.jit, static_argnums=0)
def _features(graph, params, images):
  return params_lib.merge(graph, params).encode_images(images)


@functools.partial(jax.jit, static_argnums=0)
def _branch_logits(graph, params, given, branches):
  model = params_lib.merge(graph, params)
  hidden = model.branches(
    given["prefix_ids"],
    given["prefix_len"],
    branches,
    model.encode_images(given["images"]),
    positions=given["positions"],
    position_start=given["position_start"],
  )
  return model.decoder.logits(hidden)


def test_features_of_each_picture(models):
  """Several pictures in a row, windows that cross blocks, padding behind."""
  _same_features(models)


@pytest.mark.slow
@pytest.mark.parametrize("full", [[1, 3], [0, 3], []], ids=str)
def test_features_of_other_patterns_of_layers(full):
  """Layers with windows and without, repeated or not."""
  vision = qwen_models.VISION | {"depth": 4, "fullatt_block_indexes": full}
  _same_features(_opened(qwen_models.qwen(vision=vision)))


def _same_features(models):
  theirs, graph, params = models
  out = qwen_models.processor()(images=PICTURES, return_tensors="pt")
  with torch.no_grad():
    want = theirs.model.visual(out["pixel_values"], out["image_grid_thw"])
  want = want.pooler_output.numpy()
  extent = layout_lib.total(LAYOUT.measure([p.size for p in PICTURES]))
  wide = extent._replace(tiles=extent.tiles + 70, tokens=extent.tokens + 5)
  images = qwen_world.pack(LAYOUT, [PICTURES], wide)
  got = _features(graph, params, images)[0]
  assert extent.tokens == len(want)
  assert np.abs(got[: len(want)] - want).max() <= 1e-5 * np.abs(want).max()


def test_features_do_not_depend_on_the_batch(models, monkeypatch):
  """Rows of a batch, and whole pictures looked at in parts."""
  _, graph, params = models
  extent = layout_lib.cover(LAYOUT.measure([p.size for p in PICTURES]))
  pack = lambda some: qwen_world.pack(LAYOUT, [[p] for p in some], extent)
  alone = [_features(graph, params, pack([p]))[0] for p in PICTURES]
  monkeypatch.setattr(qwen_vision, "PATCHES_AT_A_TIME", 24)
  apart = jax.jit(lambda x: params_lib.merge(graph, params).encode_images(x))
  got = apart(pack(PICTURES))
  for image, one, row in zip(PICTURES, alone, got, strict=True):
    count = LAYOUT.measure([image.size])[0].tokens
    assert np.abs(one - row)[:count].max() <= 1e-6


@pytest.fixture(scope="module")
def prompts():
  """Rows of one picture, none, two; and what our model takes."""
  made = [qwen_world.prompt(LAYOUT, some, i) for i, some in enumerate(MIXED)]
  return made, qwen_world.batch(made, MIXED)


def test_branch_logits(models, prompts):
  """Padded prefixes with two branches, against a plain sequence for each."""
  theirs, graph, params = models
  ids, given = prompts
  shape = (len(ids), 2, 9)
  branches = np.random.default_rng(2).integers(3, 80, shape, np.int32)
  got = _branch_logits(graph, params, given, branches)
  for one, some, row, each in zip(ids, MIXED, branches, got, strict=True):
    for branch, logits in zip(row, each, strict=True):
      whole = np.concatenate([one, branch])
      want = _theirs(theirs, whole, some)[len(one) - 1 : -1]
      assert np.abs(logits - want).max() <= 1e-5 * np.abs(want).max()
      ours, want = (jax.nn.log_softmax(x) for x in (logits, want))
      picked = (ours - want)[np.arange(len(branch)), branch]
      assert np.abs(picked).max() <= 1e-5


def test_greedy_output_is_identical(models, prompts):
  theirs, graph, params = models
  ids, given = prompts
  theirs.generation_config.eos_token_id = None
  how = dict(
    decoding=Decoding(max_new_tokens=24), stops=slots_lib.Stops((NOT_A_TOKEN,))
  )
  state = slots_lib.empty(
    *(graph, params, np.zeros(2, np.uint32)),
    slots=len(ids),
    branches=1,
    prefix=given["prefix_ids"].shape[1],
    length=24,
  )
  state = slots_lib.admit(
    *(graph, params, state, np.arange(len(ids))),
    *(given["prefix_ids"], given["prefix_len"], given["images"]),
    np.zeros((len(ids), 1), np.uint32),
    given["positions"],
    given["position_start"],
    **how,
  )
  wanted = jnp.int32(len(ids))
  got = slots_lib.advance(graph, params, state, wanted, **how).out[:, 0]
  for one, some, ours in zip(ids, MIXED, got, strict=True):
    theirs.model.rope_deltas = None
    written = theirs.generate(
      **_inputs(one, some),
      max_new_tokens=24,
      do_sample=False,
      pad_token_id=0,
    )
    assert ours.tolist() == written[0, -24:].tolist()
  # a model that repeats one token would say little
  assert len(set(np.asarray(got).reshape(-1).tolist())) > 6
