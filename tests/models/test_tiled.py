"""LLaVA-NeXT and LLaVA-OneVision against transformers, to the token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from povid_jax.data.layout import Extent, total  # noqa: E402
from povid_jax.generate import slots as slots_lib  # noqa: E402
from povid_jax.generate.decode import Decoding  # noqa: E402
from povid_jax.models import params as params_lib  # noqa: E402
from povid_jax.models import pictures  # noqa: E402
from povid_jax.models.llava import IMAGE_TOKEN  # noqa: E402
from tests import small_world, tiled_models  # noqa: E402
from tests.tiled_models import ANSWER, FAMILIES, IMAGE_ID, KNOWN  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  "ignore::DeprecationWarning", "ignore::FutureWarning"
)
LARGEST = Extent(31, 156, 4)  # one shape for every picture of these tests
LENGTH = 180  # of a padded prefix


@functools.partial(jax.jit, static_argnums=0)
def _run(graph, params, prefix, prefix_len, branches, images):
  """Packed features, logits of the prefix and of the branches."""
  model = params_lib.merge(graph, params)
  embeds = model.encode_images(images)
  hidden = model.branches(prefix, prefix_len, branches, embeds)
  whole, _ = model.prefill(prefix, embeds)
  return embeds, model.decoder.logits(whole), model.decoder.logits(hidden)


def _room(family: str) -> Extent:
  return LARGEST if family == "onevision" else Extent(5, 156, 1)


def _padded(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
  out = np.zeros((len(rows), LENGTH), np.int32)
  for row, ids in zip(out, rows, strict=True):
    row[: len(ids)] = ids
  return out, np.array([len(ids) for ids in rows], np.int32)


def _ours(
  family: str,
  rows: list[list],
  branches: np.ndarray,
  room: Extent | None = None,
):
  ours = tiled_models.ours(family)
  prefix, lengths = _padded([ours.prompt(row) for row in rows])
  images = ours.images(rows, room or _room(family))
  return _run(ours.graph, ours.params, prefix, lengths, branches, images)


def _answers(count: int) -> np.ndarray:
  return np.tile(np.array(ANSWER, np.int32), (count, 1, 1))


def _logps(logits: np.ndarray, ids: list[int]) -> np.ndarray:
  logits = np.asarray(logits, np.float64)
  shifted = logits - logits.max(-1, keepdims=True)
  logps = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
  return logps[np.arange(len(ids)), ids]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_the_known_numbers(family):
  """Pictures of several sizes in one batch, each as transformers has it alone;
  one row has no picture."""
  known = KNOWN[family]
  rows = [[tiled_models.picture(*case.size)] for case in known]
  ours = tiled_models.ours(family)
  assert [len(ours.prompt(row)) - 9 for row in rows] == [
    case.tokens for case in known
  ]
  branches = _answers(len(rows) + 1)
  embeds, prefix, branch = _ours(family, [*rows, []], branches)
  for i, case in enumerate(known):
    length = case.tokens + 9
    assert embeds[i, : case.tokens].sum() == pytest.approx(
      case.features, abs=2e-5
    )
    logps = _logps(branch[i, 0], ANSWER)
    assert logps.sum() == pytest.approx(case.logps, abs=1e-5)
    # the logits of the whole sequence: of the prefix, then of the answer
    logits = np.concatenate([prefix[i, : length - 1], branch[i, 0]])
    theirs = _theirs(family, rows[i], [*ours.prompt(rows[i]), *ANSWER])
    assert np.abs(logits - theirs[:-1]).max() <= 1e-5
    assert theirs.sum(dtype=np.float64) == pytest.approx(case.logits, abs=1e-3)
  assert np.isfinite(branch[-1]).all()


def _theirs(family: str, row: list, ids: list[int]) -> np.ndarray:
  model = tiled_models.model(family)
  tokens = torch.tensor([[IMAGE_ID if i == IMAGE_TOKEN else i for i in ids]])
  extra = {}
  if row:
    extra = tiled_models.pixels(family, row)
  with torch.no_grad():
    out = model(
      input_ids=tokens, attention_mask=torch.ones_like(tokens), **extra
    )
  return out.logits[0].numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_two_pictures(family):
  """NeXT tiles both, OneVision makes a square of each."""
  row = [tiled_models.picture(40, 30), tiled_models.picture(20, 31, 1)]
  ours = tiled_models.ours(family)
  if family == "onevision":
    assert len(ours.prompt(row)) == 9 + 2 * 17
  measured = ours.layout.measure([p.size for p in row])
  _, _, branch = _ours(family, [row], _answers(1), total(measured))
  ids = [*ours.prompt(row), *ANSWER]
  want = _theirs(family, row, ids)[-len(ANSWER) - 1 : -1]
  assert np.abs(branch[0, 0] - want).max() <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [1, 8])
def test_greedy_answers_are_those_of_transformers(family, batch):
  sizes = [(40, 30), (33, 100), (28, 28), (90, 25), (20, 14), (60, 60)]
  rows = [[tiled_models.picture(*size)] for size in sizes[:batch]]
  rows += [[tiled_models.picture(30, 40, seed)] for seed in range(batch)]
  rows = rows[:batch]
  ours = tiled_models.ours(family)
  prompts = [ours.prompt(row) for row in rows]
  prefix, lengths = _padded(prompts)
  how = dict(
    decoding=Decoding(max_new_tokens=12), stops=slots_lib.Stops((10**6,))
  )
  model = (ours.graph, ours.params)
  state = slots_lib.empty(
    *(*model, np.zeros(2, np.uint32)),
    slots=batch,
    branches=1,
    prefix=LENGTH,
    length=12,
  )
  images = ours.images(rows, _room(family)._replace(tiles=9))
  state = slots_lib.admit(
    *(*model, state, np.arange(batch), prefix, lengths),
    *(images, np.zeros((batch, 1), np.uint32)),
    **how,
  )
  got = slots_lib.advance(*model, state, jnp.int32(batch), **how).out[:, 0]
  model = tiled_models.model(family)
  model.generation_config.eos_token_id = None
  for row, ids, mine in zip(rows, prompts, np.asarray(got), strict=True):
    tokens = torch.tensor([[IMAGE_ID if i == IMAGE_TOKEN else i for i in ids]])
    written = model.generate(
      input_ids=tokens,
      attention_mask=torch.ones_like(tokens),
      max_new_tokens=12,
      do_sample=False,
      pad_token_id=0,
      **tiled_models.pixels(family, row),
    )
    assert mine.tolist() == written[0, -12:].tolist()


@pytest.mark.parametrize(
  "remat", [pytest.param("none", marks=pytest.mark.slow), "full"]
)
def test_the_tower_in_chunks(remat, monkeypatch):
  """Few tiles at a time give the same tokens, noise and gradients."""
  ours = tiled_models.ours("next")
  images = ours.images([[tiled_models.picture(40, 30)]] * 2)
  eps = jax.random.normal(jax.random.key(0), images["pixels"].shape)
  graph, _ = params_lib.abstract(ours.config, remat=remat)

  def loss(params):
    model = params_lib.merge(graph, params)
    embeds = model.encode_images(images, noise=(jnp.array([0.9, 0.4]), eps))
    return (embeds * jnp.arange(embeds.shape[1])[None, :, None]).sum(), embeds

  run = lambda: jax.jit(jax.value_and_grad(loss, has_aux=True))(ours.params)
  (_, whole), gradients = run()
  monkeypatch.setattr(pictures, "TILES_AT_A_TIME", 2)
  assert pictures.chunk_of(2, 5) == 1
  (_, parts), others = run()
  np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
  differences = small_world.relative_difference(others, gradients)
  assert max(differences.values()) <= 1e-5, differences
  assert np.abs(gradients["image_newline"]).max() > 0
  assert np.abs(gradients["vision/layers/mlp/fc1/kernel"]).max() > 0


@pytest.mark.parametrize(
  ("rows", "tiles", "chunk"),
  [(1, 5, 5), (1, 37, 1), (2, 8, 8), (2, 12, 6), (16, 37, 1), (64, 5, 1)],
)
def test_chunks_divide_the_tiles(rows, tiles, chunk):
  assert pictures.chunk_of(rows, tiles) == chunk
  assert rows * chunk <= max(rows, pictures.TILES_AT_A_TIME)
