"""A PEFT folder as a trainable LoRA tree: in, trained on, and out again."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from povid_jax import convert, errors, score, train
from povid_jax.checkpoints import restore
from povid_jax.errors import UserError
from povid_jax.models import params as params_lib
from povid_jax.models.config import LoraConfig
from povid_jax.weights import peft_export, peft_load
from tests import small_tokenizer, small_world

pytestmark = pytest.mark.usefixtures("one_device")

LORA = LoraConfig(rank=3, alpha=6.0)
FIELDS = {
  "objective.name": "dpo",
  "steps": 2,
  "lora.rank": LORA.rank,
  "lora.alpha": LORA.alpha,
}


@functools.cache
def _trained(projector: bool = False) -> dict[str, np.ndarray]:
  """Adapters that do something on every linear layer."""
  _, shapes = params_lib.abstract(small_world.MODEL, LORA)
  rng = np.random.default_rng(0)
  return {
    path: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32)
    for path, leaf in shapes.items()
    if params_lib.is_lora(path) or (projector and "projector" in path)
  }


def _adapter(folder: Path, trained: dict[str, np.ndarray]) -> Path:
  folder.mkdir(parents=True)
  peft_export.write_adapter(folder, LORA, trained, small_world.MODEL)
  return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """model/, data/ of two pairs, the same in pairs.json, and adapter/."""
  root = tmp_path_factory.mktemp("adapters")
  small_world.model_folder(root)
  records = [small_world.record(i) for i in range(2)]
  small_world.data_folder(root / "data", records, shards=1)
  _adapter(root / "adapter", _trained())
  rows = []
  for made in records:
    (root / f"{made.id}.png").write_bytes(made.images[0])
    turns = lambda answer, made=made: [
      {"from": "human", "value": made.prompt_turns[0]},
      {"from": "gpt", "value": answer[0]},
    ]
    rows.append(
      {
        "id": made.id,
        "image": f"{made.id}.png",
        "conversations": turns(made.chosen),
        "rejected_conversations": turns(made.rejected),
      }
    )
  (root / "pairs.json").write_text(json.dumps(rows))
  return root


def _config(world: Path, **fields: Any) -> Any:
  named = {k.replace("__", "."): v for k, v in fields.items()}
  named = {**FIELDS, "adapter": str(world / "adapter"), **named}
  return small_world.config(world / "model", world / "data", named)


def _scored(world: Path, out: Path, adapter: Path) -> float:
  """The mean loss of the pairs, by the command that has its own oracle."""
  flags = [
    f"--checkpoint={world / 'model'}",
    f"--adapter={adapter}",
    f"--pairs={world / 'pairs.json'}",
    f"--image-dir={world}",
    f"--out={out}",
    "--objective=dpo",
  ]
  assert score.main(flags) == 0
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  return float(np.mean([row["loss"]["dpo"] for row in rows]))


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["online", "cached"])
def test_training_goes_on_where_the_adapter_was(
  world: Path, tmp_path: Path, reference: str
):
  """The reference is the base without it, before and after."""
  run = tmp_path / "run"
  train.train_and_evaluate(_config(world, reference=reference), run)
  losses = small_world.losses(run)
  before = _scored(world, tmp_path / "before.jsonl", world / "adapter")
  assert losses[0] == pytest.approx(before, abs=1e-5)
  assert abs(before - np.log(2)) > 1e-2  # an adapter at zero has log 2
  assert losses[1] < losses[0]
  # out again: as the run left it, on the same base
  convert.main(["to-peft", str(run), str(tmp_path / "out")])
  again = peft_load.read_adapter(tmp_path / "out", small_world.MODEL)
  trained, lora, init = restore.load_trained(run)
  assert (lora.rank, lora.alpha) == (LORA.rank, LORA.alpha)
  assert init == str(world / "model")
  assert set(again.params) == set(trained) == set(_trained())
  for path, value in again.params.items():
    np.testing.assert_array_equal(value, trained[path])
    assert np.abs(value - _trained()[path]).max() > 0
  after = _scored(world, tmp_path / "after.jsonl", tmp_path / "out")
  assert after < losses[1]


@pytest.mark.slow
def test_a_tuned_projector_is_trained_on(world: Path, tmp_path: Path):
  """The reference keeps the projector of the base."""
  adapter = _adapter(tmp_path / "adapter", _trained(projector=True))
  fields = {"adapter": str(adapter), "projector_lr": 1e-3, "steps": 1}
  before = _scored(world, tmp_path / "before.jsonl", adapter)
  for reference in ("online", "cached"):
    run = tmp_path / reference
    train.train_and_evaluate(_config(world, reference=reference, **fields), run)
    assert small_world.losses(run)[0] == pytest.approx(before, abs=1e-5)


@pytest.mark.slow
def test_a_tuned_projector_is_not_lost(world: Path, tmp_path: Path):
  adapter = _adapter(tmp_path / "adapter", _trained(projector=True))
  with pytest.raises(UserError, match="contains a tuned projector .*lr, or"):
    train.train_and_evaluate(_config(world, adapter=str(adapter)), tmp_path)
  # one that is the base's changes nothing, and may come along
  base = restore.load(world / "model").params
  same = {k: v for k, v in base.items() if k.startswith("projector")}
  adapter = _adapter(tmp_path / "same", {**_trained(), **same})
  train.train_and_evaluate(
    _config(world, adapter=str(adapter), steps=1), tmp_path / "run"
  )


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (
      {"lora__rank": 4},
      "set: --config.lora.rank=3 --config.lora.al",
    ),
    ({"lora__alpha": 3.0}, r"--config.lora.alpha=6\.0 --config.lora.targets='"),
    ({"lora__targets": "q_proj$"}, r"targets='\^\(decoder/layers/self_attn/q"),
    (
      {"trainable": "decoder"},
      "'decoder' has no adapters; want trainable=lora",
    ),
    ({"adapter": "/nowhere"}, "/nowhere: no such folder"),
  ],
)
def test_what_does_not_fit(
  world: Path, tmp_path: Path, fields: dict, message: str, capsys
):
  run = tmp_path / "run"
  with pytest.raises(SystemExit) as caught:
    errors.run(
      lambda: train.train_and_evaluate(_config(world, **fields), run) and 0
    )
  assert caught.value.code == 2
  line = capsys.readouterr().err
  assert line.count("\n") == 1
  assert re.search(message, line), line
  assert not run.exists()


def test_the_named_fields_can_be_pasted(world: Path, tmp_path: Path):
  """An adapter on two modules: what the message says to set is what fits."""
  part = {
    k: v for k, v in _trained().items() if "q_proj" in k or "up_proj" in k
  }
  adapter = str(_adapter(tmp_path / "adapter", part))
  with pytest.raises(UserError) as caught:
    train.train_and_evaluate(_config(world, adapter=adapter), tmp_path / "run")
  targets = str(caught.value).split("targets='")[1].removesuffix("'")
  state = train.train_and_evaluate(
    _config(world, adapter=adapter, lora__targets=targets), tmp_path / "run"
  )
  assert set(state.params) == set(part)


@pytest.mark.slow
def test_a_run_that_is_older_than_the_field_continues(
  world: Path, tmp_path: Path
):
  run = tmp_path / "run"
  train.train_and_evaluate(_config(world, adapter="", steps=1), run)
  old = json.loads((run / "config.json").read_text())
  assert old.pop("adapter") == ""
  (run / "config.json").write_text(json.dumps(old))
  train.train_and_evaluate(_config(world, adapter="", steps=1), run)
  with pytest.raises(UserError, match="holds a run with config.adapter=''"):
    train.train_and_evaluate(_config(world, steps=1), run)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_from_peft_and_back_to_peft(tmp_path: Path):
  """transformers + peft -> two steps of ours -> peft opens it."""
  torch = pytest.importorskip("torch")
  peft = pytest.importorskip("peft")
  import transformers

  from tests import torch_models

  model = torch_models.llava("gqa", vocab_size=small_tokenizer.VOCAB)
  src = small_tokenizer.write(tmp_path / "src")
  model.save_pretrained(src)
  targets = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
  wrapped = peft.get_peft_model(
    model,
    peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets),
  )
  torch_models.randomise_lora(wrapped)
  wrapped.save_pretrained(tmp_path / "adapter")
  base, run = tmp_path / "base", tmp_path / "run"
  convert.main(["from-torch", str(src), str(base), "--dtype=float32"])
  data = small_world.data_folder(tmp_path / "data", 4)
  fields = {**FIELDS, "adapter": str(tmp_path / "adapter")}
  state = train.train_and_evaluate(small_world.config(base, data, fields), run)
  assert int(state.step) == 2
  convert.main(["to-hf", str(base), str(tmp_path / "hf")])
  convert.main(["to-peft", str(run), str(tmp_path / "out")])
  convert.main(["to-hf", str(run), str(tmp_path / "merged")])
  opened = lambda name: (
    transformers.LlavaForConditionalGeneration.from_pretrained(
      tmp_path / name, dtype=torch.float32
    ).eval()
  )
  got = peft.PeftModel.from_pretrained(opened("hf"), tmp_path / "out").eval()
  merged = opened("merged")
  image = merged.config.image_token_index
  ids = torch.tensor([[1, *[image] * 16, 5, 6, 7, 8, 9]])
  pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
  with torch.no_grad():
    ours, theirs, start = (
      m(input_ids=ids, pixel_values=pixels).logits[..., : small_tokenizer.VOCAB]
      for m in (merged, got, opened("hf"))
    )
  assert float((ours - theirs).abs().max()) <= 2e-4
  assert float((theirs - start).abs().max()) > 0.1
