"""Reference log-probs from a cache against those computed in the step."""

import json
import shutil

import jax
import numpy as np
import pytest

from povid_jax import train
from povid_jax.errors import UserError
from povid_jax.models import sharding
from povid_jax.training import build, reference
from tests import small_world

STEPS = 4
# moved far enough from the reference that a reward is not a rounding error
FIELDS = {"steps": STEPS, "lr": 3e-2, "noise.per_epoch": False}


@pytest.fixture(scope="module", autouse=True)
def one_device():
  with small_world.one_device():
    yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("reference")
  return small_world.folders(root, small_world.odd_records())


def _config(world, **fields):
  return small_world.config(
    world / "model", world / "data", {**FIELDS, **fields}
  )


def _rows(workdir):
  path = workdir / "metrics/train.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


# One step of it is in the fast suite: test_step.py, and
# test_the_reference_does_not_see_the_adapter below.
@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "trainable"),
  [
    ("dpo", "lora"),
    ("povid", "lora"),
    ("dpo", "decoder"),
    ("povid", "decoder"),
    ("povid_shared", "lora"),
    ("povid_shared", "decoder"),
    ("povid_paper", "lora"),
    ("mdpo", "lora"),
  ],
)
def test_cached_is_online(name, trainable, world, tmp_path):
  fields = {"objective.name": name, "trainable": trainable}
  if trainable == "decoder":
    fields["lr"] = 1e-3
  runs = {}
  for how in ("online", "cached"):
    made = _config(world, reference=how, **fields)
    train.train_and_evaluate(made, tmp_path / how)
    runs[how] = _rows(tmp_path / how)
  assert abs(runs["online"][-1]["drift/chosen"]) > 1e-2
  for one, other in zip(runs["online"], runs["cached"], strict=True):
    for key in one:
      if key == "loss" or key.startswith(("margin", "drift", "reward", "kl")):
        assert one[key] == pytest.approx(other[key], rel=1e-6, abs=1e-6), key
  assert not (tmp_path / "online/reference").exists()


@pytest.fixture(scope="module")
def scored(world, tmp_path_factory):
  """(function that asks for the cache, its folder, its values)."""
  folder = tmp_path_factory.mktemp("cache") / "reference"

  def ask(init=None, data=None, **fields):
    fields = {"reference": "cached", "reference_cache": str(folder), **fields}
    config = small_world.config(
      init or world / "model", data or world / "data", {**FIELDS, **fields}
    )
    mesh = sharding.make_mesh(config.mesh)
    model = build.build_model(config, mesh)
    made = build.build_data(config, model.weights, folder.parent)
    step, _ = build.make_step(config, model, len(made.plan))
    return reference.cached(config, model, made, step, mesh, folder.parent)

  return ask, folder, ask()


def test_every_sample_and_term_is_stored(scored):
  ask, folder, values = scored
  assert values.corrupted is None
  for array in values[:3]:
    assert array.shape[0] == array.size == 5 and (array < 0).all()
  key = json.loads((folder / "key.json").read_text())
  assert key["terms"] == ["chosen", "rejected", "noise"]
  before = (folder / "logps.npz").stat().st_mtime_ns
  again = ask()
  for one, other in zip(again[:3], values[:3], strict=True):
    np.testing.assert_array_equal(one, other)
  assert (folder / "logps.npz").stat().st_mtime_ns == before


def test_one_byte_of_the_data(world, scored, tmp_path):
  ask, _, _ = scored
  records = small_world.odd_records()
  text = records[3].chosen[-1]
  assert text == "No, a bus."
  records[3] = small_world.record(
    3,
    prompt_turns=records[3].prompt_turns,
    chosen=(*records[3].chosen[:-1], "No, a bug."),
    rejected=records[3].rejected,
  )
  data = small_world.data_folder(tmp_path / "data", records)
  with pytest.raises(UserError, match="is stale: its data is"):
    ask(data=data)
  # the same content elsewhere is the same data
  ask(data=small_world.data_folder(tmp_path / "b", small_world.odd_records()))


def test_one_byte_of_the_weights(world, scored, tmp_path):
  ask, _, _ = scored
  model = tmp_path / "model"
  shutil.copytree(world / "model", model)
  ask(init=model)
  weights = {**small_world.arrays()}
  weights["decoder/norm/scale"][3] *= np.float32(1 + 1e-6)
  shutil.rmtree(model)
  small_world.model_folder(tmp_path, weights)
  with pytest.raises(UserError, match="is stale: its weights is"):
    ask(init=model)


@pytest.mark.parametrize("what", ["template", "tokenizer", "image_mode"])
def test_how_the_model_is_talked_to(what, world, scored, tmp_path):
  ask, _, _ = scored
  model = tmp_path / "model"
  shutil.copytree(world / "model", model)
  described = json.loads((model / "model.json").read_text())
  if what == "template":
    described["template"] = "vicuna_v1"
  elif what == "image_mode":
    described["layout"]["mode"] = "resize"
  else:
    with open(model / "tokenizer/tokenizer_config.json", "w") as file:
      file.write("{}")
  (model / "model.json").write_text(json.dumps(described))
  with pytest.raises(UserError, match="is stale: its weights is"):
    ask(init=model)


STALE = {
  "noise step": ({"noise.step": 400}, "its noise is"),
  "overflow": ({"noise.overflow": "clip"}, "its noise is"),
  "token rule": ({"noise.tokens": "argmax_exclude_gold"}, "its noise is"),
  "seed": ({"seed": 1}, "its noise_seed is 0, this run has 1"),
  "objective": ({"objective.name": "dpo"}, "its terms is"),
  "weights": (
    {"data.changed_weight": 3.0}, "its changed_weight is None, this run has 3.0"
  ),
  "quantised base": (
    {"base": "int8"}, "its base is None, this run has 'int8'"
  ),
  "products": (
    {"matmul": "fp8"}, "its matmul is None, this run has 'fp8'"
  ),
  "limit": ({"data.limit": 3}, "its records is 5, this run has 3"),
  "new noise each epoch": (
    {"noise.per_epoch": True, "steps": 9},
    "does not work with config.noise.per_epoch",
  ),
}  # fmt: skip


@pytest.mark.parametrize("case", STALE)
def test_what_a_cache_depends_on(case, scored):
  ask, _, _ = scored
  fields, message = STALE[case]
  with pytest.raises(UserError, match=message) as caught:
    ask(**fields)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["povid_shared", "povid_paper"])
def test_noise_of_the_policy_is_no_part_of_the_key(name, scored, tmp_path):
  """Chosen and rejected answers are cached, and no noise token: that changes
  with the policy. So neither noise nor seed makes such a cache stale."""
  ask, _, values = scored
  folder = tmp_path / "cache"
  cache = {"reference_cache": str(folder), "objective.name": name}
  made = ask(**cache)
  assert made.noise is None
  np.testing.assert_allclose(made.chosen, values.chosen, rtol=1e-6)
  before = (folder / "logps.npz").stat().st_mtime_ns
  for fields in ({"noise.step": 400}, {"seed": 1}, {"noise.per_epoch": True}):
    again = ask(**cache, **fields)
    np.testing.assert_array_equal(again.rejected, made.rejected)
  # older versions named the noise there as well
  key = json.loads((folder / "key.json").read_text())
  assert key["noise"] is key["noise_seed"] is None
  older = {**key, "noise": {"step": 500}, "noise_seed": 7}
  (folder / "key.json").write_text(json.dumps(older))
  ask(**cache)
  assert (folder / "logps.npz").stat().st_mtime_ns == before
  with pytest.raises(UserError, match="is stale: its terms is"):
    ask(**{**cache, "objective.name": "povid"})


def test_a_cache_of_fewer_samples(world, tmp_path, scored):
  """Samples that were too long then are not scored as zero now."""
  ask, _, values = scored
  cache = {"reference_cache": str(tmp_path / "cache")}
  longest = int(np.argmin(values.chosen))
  some = ask(**cache, **{"data.max_branch": 16, "data.on_too_long": "drop"})
  left = np.isnan(some.chosen)
  assert left.any() and not left.all() and left[longest]
  with pytest.raises(UserError, match="is stale: it has no log-probs"):
    ask(**cache)


def test_a_damaged_cache(scored, tmp_path):
  ask, folder, _ = scored
  other = tmp_path / "cache"
  shutil.copytree(folder, other)
  data = (other / "logps.npz").read_bytes()
  (other / "logps.npz").write_bytes(data[: len(data) // 2])
  with pytest.raises(UserError, match="logps.npz cannot be read"):
    ask(reference_cache=str(other))


def test_the_reference_does_not_see_the_adapter(world, scored):
  """Computed with adapters that have moved, the numbers are the same."""
  config = _config(world)
  mesh = sharding.make_mesh(config.mesh)
  model = build.build_model(config, mesh)
  data = build.build_data(config, model.weights, world)
  step, _ = build.make_step(config, model, 1)
  loader = build.build_loader(config, data, model.weights, mesh, world)
  host = loader(data.plan[0])
  moved = {k: v + 0.1 for k, v in model.params.items()}
  with jax.set_mesh(mesh):
    batch = build.place(host, config, mesh)
    out = jax.jit(
      lambda params, batch: reference._score(step, model.frozen, params, batch)
    )(moved, batch)
  index = host.index
  real = index >= 0  # not what only fills the batch
  assert real.any()
  for one, other in zip(out[:3], scored[2][:3], strict=True):
    np.testing.assert_allclose(
      np.asarray(one).reshape(-1)[real],
      other.reshape(-1)[index[real]],
      rtol=1e-6,
    )
