"""Models that cut pictures into tiles, through every part of the project."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from povid_jax import objectives, score, train
from povid_jax.checkpoints import restore
from povid_jax.data import layout as layouts
from povid_jax.data import noise as noise_lib
from povid_jax.generate import __main__ as generate
from povid_jax.models import params as params_lib
from povid_jax.models.config import LoraConfig
from povid_jax.models.presets import preset
from povid_jax.objectives import logps
from povid_jax.objectives.logps import Spec
from povid_jax.training import optim
from povid_jax.training.step import Frozen, State, StepFn
from tests import small_tokenizer, small_world

MODELS = {
  name: dataclasses.replace(
    preset(f"test-{name}"),
    decoder=dataclasses.replace(
      preset(f"test-{name}").decoder, vocab_size=small_tokenizer.VOCAB
    ),
  )
  for name in ("next", "onevision")
}
# of decoder, tower and projector
LORA = LoraConfig(
  rank=2,
  alpha=4.0,
  targets=r"(q_proj|fc1|linear_1|gate_proj)$",
)


def _records():
  """Pictures of several shapes, two in one prompt, and none."""
  shapes = [(22, 31), (70, 60), (12, 80), (80, 14), (56, 56)]
  made = [
    small_world.record(i, images=(small_world.png(i, shape),))
    for i, shape in enumerate(shapes)
  ]
  two = (small_world.png(20, (30, 40)), small_world.png(21, (12, 40)))
  made.append(
    small_world.record(
      5, images=two, prompt_turns=("<image>\n<image>\ncat or dog?",)
    )
  )
  made.append(small_world.record(6, images=(), prompt_turns=("How many?",)))
  return made


def _arrays(config, lora=None):
  _, shapes = params_lib.abstract(config, lora)
  random = np.random.default_rng(0)
  out = {}
  for path, leaf in shapes.items():
    values = random.normal(0, 0.2, leaf.shape).astype(np.float32)
    out[path] = 1 + values if path.endswith("scale") else values
  return out


@pytest.fixture(
  scope="module",
  params=["next", pytest.param("onevision", marks=pytest.mark.slow)],
)
def family(request, tmp_path_factory):
  """(config, folder with its model and data)."""
  config = MODELS[request.param]
  root = tmp_path_factory.mktemp(request.param)
  restore.save_model_folder(
    root / "model",
    config,
    _arrays(config),
    template=small_world.TEMPLATE,
    tokenizer=small_tokenizer.write(root / "tokenizer"),
  )
  small_world.data_folder(root / "data", _records())
  return config, root


@pytest.mark.parametrize(
  "name",
  ["next", pytest.param("onevision", marks=pytest.mark.slow)],
)
def test_a_batch_of_mixed_sizes_is_each_alone(name, tmp_path):
  config = MODELS[name]
  records = _records()
  batch = small_world.batch_of(tmp_path, records, fillers=1, config=config)
  assert set(batch.images) >= {"pixels", "index"}
  assert ("weight" in batch.images) == (config.layout.max_tiles > 0)
  graph, _ = params_lib.abstract(config)
  spec = Spec(objectives.get("povid").needs, head_chunk=64)

  @jax.jit
  def run(params, batch):
    model = params_lib.merge(graph, params)
    pictures = logps.encode(model, batch, spec, adapter=True)
    noise_ids = logps.noise_tokens(model, batch, pictures, spec, adapter=True)
    sums = logps.score(
      model, batch, pictures, spec, adapter=True, noise_ids=noise_ids
    )
    return logps.per_pair(sums, batch), noise_ids

  params = jax.tree.map(jnp.asarray, _arrays(config))
  together, tokens = run(params, batch.for_model())
  for i in (1, 5):  # one picture, and two
    record, folder = records[i], tmp_path / str(i)
    alone = small_world.batch_of(folder, [record], config=config)
    branch = alone.branch_ids.shape[2]
    found, one = run(params, alone.for_model())
    for name in ("chosen", "rejected", "noise"):
      np.testing.assert_allclose(
        getattr(found, name)[0],
        getattr(together, name)[i],
        rtol=1e-5,
        err_msg=f"{name} of {record.id}",
      )
    mask = alone.loss_mask[0, 0]
    np.testing.assert_array_equal(
      np.asarray(one)[0][mask], np.asarray(tokens)[i, :branch][mask]
    )


def test_noise_comes_before_the_tiles(family, tmp_path):
  """Base picture and tiles show the same noise."""
  config, _ = family
  record = _records()[1]
  batch = small_world.batch_of(tmp_path, [record], config=config)
  layout = layouts.of(config)
  picture = small_world.picture(1, (70, 60))
  seed = noise_lib.seed_for(0, record.id, None)
  noisy = noise_lib.distort(np.asarray(picture), 500, seed, "wrap")
  want = layout.cut([Image.fromarray(noisy)])
  clean = layout.cut([picture])
  np.testing.assert_array_equal(batch.images_noisy[0], want.pixels)
  np.testing.assert_array_equal(batch.images["pixels"][0], clean.pixels)
  assert (want.pixels != clean.pixels).any()


def _step(graph, share_prefix):
  objective = objectives.get("dpo")
  spec = Spec(objective.needs, head_chunk=64, share_prefix=share_prefix)
  return StepFn(graph, objective, spec, optim.finite_guard(optax.sgd(1.0)))


@pytest.mark.slow
def test_sharing_the_prefix_changes_no_gradient(family, tmp_path):
  """Everything is trained, adapters of tower and projector too."""
  config, _ = family
  graph, _ = params_lib.abstract(config, LORA)
  params = jax.tree.map(jnp.asarray, _arrays(config, LORA))
  assert any(p.startswith("vision/") for p in params if params_lib.is_lora(p))
  before = {
    path: 0.99 * x for path, x in params.items() if not params_lib.is_lora(path)
  }
  batch = small_world.batch_of(tmp_path, _records(), config=config)
  batch = jax.tree.map(lambda x: jnp.asarray(x)[None], batch.for_model())
  moved = {}
  for share in (True, False):
    step = _step(graph, share)
    state = State(jnp.int32(0), params, step.optimizer.init(params))
    new, metrics = jax.jit(step)(state, Frozen({}, before), batch)
    moved[share] = {k: params[k] - x for k, x in new.params.items()}
    moved[share]["loss"] = metrics["loss"]
  assert float(jnp.abs(moved[True]["image_newline"]).max()) > 1e-6
  worst = small_world.relative_difference(moved[True], moved[False])
  assert max(worst.values()) < 2e-5, worst


FIELDS = {"steps": 4, "batch_size": 8, "lr": 3e-3}


def _config(root, **fields):
  return small_world.config(root / "model", root / "data", FIELDS | fields)


@pytest.fixture(scope="module")
def run(family, tmp_path_factory):
  """A run on one device."""
  workdir = tmp_path_factory.mktemp("run") / "run"
  with small_world.one_device():
    train.train_and_evaluate(_config(family[1]), workdir)
  return workdir


@pytest.mark.slow
def test_eight_devices_make_the_same_losses(family, run, tmp_path):
  mesh = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
  train.train_and_evaluate(_config(family[1], **mesh), tmp_path)
  losses = small_world.losses(run)
  assert small_world.losses(tmp_path) == pytest.approx(losses, rel=1e-5)
  assert len(set(losses)) == FIELDS["steps"]


@pytest.mark.slow
def test_a_run_that_is_cut_goes_on_to_the_bit(family, run, tmp_path):
  fields = {"checkpoint.every": 2}
  with small_world.one_device():
    train.train_and_evaluate(_config(family[1], **fields), tmp_path)
    shutil.rmtree(tmp_path / f"checkpoints/{FIELDS['steps']}")
    train.train_and_evaluate(_config(family[1], **fields), tmp_path)
  assert small_world.losses(tmp_path) == small_world.losses(run)


@pytest.mark.slow
def test_a_cached_reference_makes_the_same_losses(family, run, tmp_path):
  fields = {"reference": "cached"}
  with small_world.one_device():
    train.train_and_evaluate(_config(family[1], **fields), tmp_path)
  losses = small_world.losses(run)
  assert small_world.losses(tmp_path) == pytest.approx(losses, rel=1e-5)
  key = json.loads((tmp_path / "reference/key.json").read_text())
  assert key["layout"] == json.loads(json.dumps(family[0].layout.to_dict()))
  assert "image_mode" not in key


@pytest.mark.slow
def test_answers_and_scores(family, run, tmp_path):
  config, root = family
  pictures = tmp_path / "pictures"
  pictures.mkdir()
  for i, size in enumerate([(22, 31), (70, 60), (12, 80)]):
    small_world.picture(i, size).save(pictures / f"{i}.png")
  ask = lambda out, *flags: generate.main(
    [
      f"--checkpoint={run}",
      f"--images={pictures}",
      "--prompt=cat or dog?",
      f"--out={out}",
      "--max-new-tokens=4",
      "--dtype=float32",
      *flags,
    ]
  )
  ask(tmp_path / "many.jsonl", "--batch-size=8")
  ask(tmp_path / "one.jsonl", "--batch-size=1")
  answers = [
    [json.loads(line)["text"] for line in file.read_text().splitlines()]
    for file in (tmp_path / "many.jsonl", tmp_path / "one.jsonl")
  ]
  assert len(answers[0]) == 3 and answers[0] == answers[1]

  pairs = tmp_path / "pairs.json"
  said = lambda *turns: [
    {"from": "human" if i % 2 == 0 else "gpt", "value": turn}
    for i, turn in enumerate(turns)
  ]
  rows = [
    {
      "id": str(i),
      "image": f"{i}.png",
      "conversations": said("<image>\nWhat?", "A cat."),
      "rejected_conversations": said("<image>\nWhat?", "A red bus."),
    }
    for i in range(3)
  ]
  pairs.write_text(json.dumps(rows))
  out = tmp_path / "scores.jsonl"
  score.main(
    [
      f"--checkpoint={run}",
      f"--pairs={pairs}",
      f"--image-dir={pictures}",
      f"--out={out}",
    ]
  )
  lines = [json.loads(line) for line in out.read_text().splitlines()]
  # each alone: OneVision has another rule for several pictures of a prompt
  alone = layouts.of(config).measure
  measured = [alone([size])[0] for size in ((31, 22), (60, 70), (80, 12))]
  text_only = {line["num_tokens"]["prefix"] - extent.tokens
    for line, extent in zip(lines, measured, strict=True)}  # fmt: skip
  assert len(text_only) == 1
  assert all(line["policy"]["noise_logps"] < 0 for line in lines)
