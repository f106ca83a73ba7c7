"""Exports that need no torch: read back, and what stands beside the weights."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from povid_jax import convert
from povid_jax.checkpoints import restore
from povid_jax.convert import card
from povid_jax.models.config import (
  DecoderConfig,
  LayoutConfig,
  LlavaConfig,
  VisionConfig,
)
from povid_jax.weights import original_export, shards, slow_tokenizer
from tests import small_tokenizer, small_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """model, and run0 on top of it with adapters and a tuned projector."""
  root = tmp_path_factory.mktemp("outgoing")
  small_world.model_folder(root)
  small_world.run_folder(root, root / "model", projector=True)
  return root


def _run(*argv: str | Path) -> None:
  assert convert.main([str(part) for part in argv]) == 0


def _back(src: Path, dst: Path) -> dict:
  _run(
    "from-torch", src, dst, "--dtype=float32",
    f"--vision-tower={src / 'vision_tower'}",
  )  # fmt: skip
  return restore.load(dst).params


@pytest.mark.parametrize("base_only", [False, True])
def test_a_whole_model_in_the_original_layout(
  world: Path, tmp_path: Path, base_only: bool
):
  out = tmp_path / "llava-small"
  _run("to-llava", world / "run0", out, *["--base-only"] * base_only)
  names = set(shards.read_folder(out))
  assert {
    "model.embed_tokens.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.mm_projector.0.weight",
    "model.mm_projector.2.bias",
    "model.norm.weight",
    "lm_head.weight",
    "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding",
  } <= names
  c = json.loads((out / "config.json").read_text())
  assert c["model_type"] == "llava"
  assert c["architectures"] == ["LlavaLlamaForCausalLM"]
  assert c["mm_projector_type"] == "mlp2x_gelu"
  assert c["mm_vision_select_layer"] == -2 and c["unfreeze_mm_vision_tower"]
  assert c["mm_vision_tower"] == str(out / "vision_tower")
  assert (c["bos_token_id"], c["eos_token_id"]) == (1, 2)
  assert "text_config" not in c and "rope_parameters" not in c
  got = _back(out, tmp_path / "back")
  spec = world / ("model" if base_only else "run0")
  want = restore.load(spec).merged().params
  assert set(got) == set(want)
  for path, value in want.items():
    np.testing.assert_allclose(got[path], value, atol=1e-6, err_msg=path)


def test_the_published_tower_is_named_not_copied():
  name = "openai/clip-vit-large-patch14-336"
  assert original_export.published_tower(VisionConfig()) == name
  other = VisionConfig(feature_layer=-1)
  assert original_export.published_tower(other) == name
  assert original_export.published_tower(VisionConfig(image_size=448)) == ""


@pytest.mark.parametrize("siglip", [False, True])
def test_a_model_of_tiles_in_the_original_layout(tmp_path: Path, siglip: bool):
  """LLaVA-NeXT's and LLaVA-OneVision's: one vector more, and the pinpoints."""
  model = small_world.MODEL
  size = model.vision.image_size
  vision = model.vision
  if siglip:
    vision = dataclasses.replace(
      vision, class_token=False, pre_norm=False, patch_bias=True,
      activation="gelu_tanh", layer_norm_eps=1e-6, feature_layer=-1,
      mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
  layout = LayoutConfig(
    "anyres",
    pinpoints=((size, 2 * size), (2 * size, size)),
    max_tiles=9 if siglip else 0,
    several="square" if siglip else "tiles",
  )
  config = dataclasses.replace(model, vision=vision, layout=layout)
  restore.save_model_folder(
    tmp_path / "model",
    config,
    small_world.arrays(config),
    template="short",
    tokenizer=small_tokenizer.write(tmp_path / "words"),
  )
  out = tmp_path / "llava-tiles"
  _run("to-llava", tmp_path / "model", out)
  c = json.loads((out / "config.json").read_text())
  assert c["mm_patch_merge_type"] == "spatial_unpad"
  assert c["image_aspect_ratio"] == ("anyres_max_9" if siglip else "anyres")
  assert "model.image_newline" in shards.read_folder(out)
  # the tower beside the weights is found without a flag
  _run("from-torch", out, tmp_path / "back", "--dtype=float32")
  assert restore.describe(tmp_path / "back") == config
  got = restore.load(tmp_path / "back").params
  for path, value in restore.load(tmp_path / "model").params.items():
    np.testing.assert_array_equal(got[path], value, err_msg=path)


def test_scaled_positions_as_old_transformers_read_them():
  scaled = DecoderConfig(rope_scaling={"type": "linear", "factor": 4.0})
  config = LlavaConfig(decoder=scaled, layout=LayoutConfig(mode="resize"))
  manners = {"template": "vicuna_v1"}
  c = original_export.describe(config, 32000, "x", {}, manners, "float16")
  assert c["rope_scaling"] == {"type": "linear", "factor": 4.0}
  assert c["image_aspect_ratio"] == "square"


def test_an_adapter_for_llavas_own_loader(world: Path, tmp_path: Path):
  """Its config.json, and the projector whole also where it was not trained."""
  torch = pytest.importorskip("torch")
  model = world / "model"
  run = small_world.run_folder(tmp_path, model, projector=False)
  out = tmp_path / "llava-lora"
  _run("to-peft", run, out, "--layout=original")
  c = json.loads((out / "config.json").read_text())
  assert c["hidden_size"] == small_world.MODEL.decoder.hidden_size
  assert c["mm_projector_type"] == "mlp2x_gelu"
  beside = torch.load(out / "non_lora_trainables.bin", weights_only=True)
  want = restore.load(model).params
  stem = "base_model.model.model.mm_projector"
  assert set(beside) == {
    f"{stem}.{i}.{kind}" for i in "02" for kind in ("weight", "bias")
  }
  np.testing.assert_array_equal(
    beside[f"{stem}.0.weight"].numpy().T, want["projector/linear_1/kernel"]
  )


def test_paths_through_a_parent(
  world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  model = os.path.relpath(world / "model")
  assert model.startswith("..")
  _run("to-hf", model, "../out")
  _run("from-torch", "../out", "../here/back", "--dtype=float32")
  got = restore.load("../here/back").params
  want = restore.load(model).params
  np.testing.assert_array_equal(
    got["decoder/norm/scale"], want["decoder/norm/scale"]
  )


def test_the_decoders_class_is_named(world: Path, tmp_path: Path):
  _run("to-hf", world / "model", tmp_path / "hf")
  c = json.loads((tmp_path / "hf/config.json").read_text())
  assert c["text_config"]["architectures"] == ["LlamaForCausalLM"]


def test_the_card(world: Path, tmp_path: Path):
  run = tmp_path / "run0"
  shutil.copytree(world / "run0", run)
  described = json.loads((run / "config.json").read_text())
  described["init"] = str(world / "model")
  (run / "config.json").write_text(json.dumps(described))
  scores = {"results": [
    {"benchmark": "chair", "metric": "chair_i", "value": 0.0731, "n": 500,
     "ci95": [0.06, 0.08]},
  ]}  # fmt: skip
  (run / "eval/7").mkdir(parents=True)
  (run / "eval/7/results.json").write_text(json.dumps(scores))
  for command, out in (("to-hf", "hf"), ("to-peft", "adapter")):
    _run(command, run, tmp_path / out)
    said = (tmp_path / out / "README.md").read_text()
    assert "Base: model." in said and "| objective | dpo |" in said
    assert '| its hyper-parameters | {"beta": 0.1} |' in said
    assert "| data | pairs_a\\|b |" in said
    assert "| chair | chair_i | 0.0731 | 0.0600 to 0.0800 | 500 |" in said
    assert "/somewhere" not in said and str(tmp_path) not in said
  plain = card.text(
    str(world / "model"), small_world.MODEL, template="short", what="", use=""
  )
  assert "No parameter of it was trained" in plain and "not evaluated" in plain


def test_a_slow_tokenizer_is_made_again(world: Path, tmp_path: Path):
  """From a tokenizer.json alone: the same ids as the tokenizer.model had."""
  _run("to-hf", world / "model", tmp_path / "hf")
  first = tmp_path / "hf/tokenizer.model"
  old = sentencepiece.SentencePieceProcessor(model_file=str(first))
  first.unlink()
  assert slow_tokenizer.ensure(tmp_path / "hf")
  new = sentencepiece.SentencePieceProcessor(model_file=str(first))
  assert new.vocab_size() == old.vocab_size()
  rng = np.random.default_rng(0)
  letters = list("abcdefghi tables, red. Two?\n0123") + ["é", "東", "  "]
  for _ in range(200):
    text = "".join(rng.choice(letters, rng.integers(0, 60)))
    assert new.encode(text) == old.encode(text), text


@pytest.mark.parametrize("spoil", ["byte level", "a merge lost"])
def test_none_is_made_that_would_cut_otherwise(
  world: Path, tmp_path: Path, spoil: str
):
  _run("to-hf", world / "model", tmp_path / "hf")
  (tmp_path / "hf/tokenizer.model").unlink()
  file = tmp_path / "hf/tokenizer.json"
  spec = json.loads(file.read_text())
  if spoil == "byte level":
    spec["model"]["byte_fallback"] = False
  else:
    spec["normalizer"]["normalizers"].append({"type": "Lowercase"})
  file.write_text(json.dumps(spec))
  assert not slow_tokenizer.ensure(tmp_path / "hf")
  assert not (tmp_path / "hf/tokenizer.model").exists()
