"""PEFT folders in and out: what is read, skipped, refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from povid_jax.errors import UserError
from povid_jax.models.config import LoraConfig
from povid_jax.models.presets import preset
from povid_jax.weights import export, peft_export, peft_load

CONFIG = preset("test")  # width 32, 2 layers, 2 of 4 heads for keys
RANK, ALPHA = 3, 6.0
PREFIXES = {
  "original": "base_model.model.model.layers",
  "llava-hf 4.36": "base_model.model.language_model.model.layers",
  "llava-hf 4.52": "base_model.model.model.language_model.layers",
  # the released trainer hands an already wrapped model to PEFT
  "wrapped twice": "base_model.model.base_model.model.model.layers",
}
CLIP = (
  "base_model.model.model.vision_tower.vision_tower.vision_model.encoder."
  "layers.0.self_attn.q_proj"
)


def _tensors(prefix: str, module: str, shape: tuple[int, int]) -> dict:
  d_out, d_in = shape
  rng = np.random.default_rng(0)
  draw = lambda *s: rng.standard_normal(s, np.float32)
  out = {}
  for layer in range(CONFIG.decoder.num_layers):
    name = f"{prefix}.{layer}.{module}"
    out[f"{name}.lora_A.weight"] = draw(RANK, d_in)
    out[f"{name}.lora_B.weight"] = draw(d_out, RANK)
  return out


def _folder(path: Path, tensors: dict, **fields: Any) -> Path:
  path.mkdir(exist_ok=True)
  config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, **fields}
  (path / "adapter_config.json").write_text(json.dumps(config))
  export.write_safetensors(path / "adapter_model.safetensors", tensors)
  return path


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_every_layout_gives_the_same_tree(tmp_path: Path, prefix: str):
  tensors = _tensors(prefix, "self_attn.k_proj", (16, 32))
  tensors |= _tensors(prefix, "mlp.down_proj", (32, 48))
  got = peft_load.read_adapter(_folder(tmp_path, tensors), CONFIG)
  stem = "decoder/layers/self_attn/k_proj"
  other = "decoder/layers/mlp/down_proj"
  assert {k: v.shape for k, v in got.params.items()} == {
    f"{other}/lora_a": (2, 48, 3),
    f"{other}/lora_b": (2, 3, 32),
    f"{stem}/lora_a": (2, 32, 3),
    f"{stem}/lora_b": (2, 3, 16),
  }
  name = f"{prefix}.1.self_attn.k_proj"
  np.testing.assert_array_equal(
    got.params[f"{stem}/lora_b"][1], tensors[f"{name}.lora_B.weight"].T
  )
  assert (got.config.rank, got.config.alpha, got.config.scale) == (3, 6.0, 2.0)
  # the targets are those modules and no others
  assert got.config.targets == rf"^({stem}|{other})$" or (
    got.config.targets == rf"^({other}|{stem})$"
  )
  assert got.others == {} and got.skipped == ()


def test_silent_modules_outside_the_decoder_are_skipped(tmp_path: Path):
  """The released run's CLIP adapters: A is random, B never moved."""
  tensors = _tensors(PREFIXES["original"], "self_attn.q_proj", (32, 32))
  tensors[f"{CLIP}.lora_A.weight"] = np.ones((RANK, 16), np.float32)
  tensors[f"{CLIP}.lora_B.weight"] = np.zeros((16, RANK), np.float32)
  got = peft_load.read_adapter(_folder(tmp_path / "a", tensors), CONFIG)
  assert got.skipped == (CLIP.removeprefix("base_model.model."),)
  assert len(got.params) == 2
  elsewhere = CLIP.replace("layers.0", "layers.9")
  tensors[f"{elsewhere}.lora_A.weight"] = np.ones((RANK, 16), np.float32)
  tensors[f"{elsewhere}.lora_B.weight"] = np.full((16, RANK), 1e-6, np.float32)
  with pytest.raises(UserError, match="1 modules that the model does not"):
    peft_load.read_adapter(_folder(tmp_path / "b", tensors), CONFIG)


def test_adapters_on_projector_and_tower(tmp_path: Path):
  """TRL's all-linear."""
  tensors = _tensors(PREFIXES["llava-hf 4.52"], "mlp.up_proj", (48, 32))
  rng = np.random.default_rng(3)
  draw = lambda *s: rng.standard_normal(s, np.float32)
  linear = "base_model.model.model.multi_modal_projector.linear_1"
  tower = "base_model.model.model.vision_tower.vision_model.encoder.layers.1"
  tensors |= {
    f"{linear}.lora_A.weight": draw(RANK, 16),
    f"{linear}.lora_B.weight": draw(32, RANK),
    f"{tower}.mlp.fc1.lora_A.weight": draw(RANK, 16),
    f"{tower}.mlp.fc1.lora_B.weight": draw(32, RANK),
  }
  got = peft_load.read_adapter(_folder(tmp_path, tensors), CONFIG)
  assert got.skipped == ()
  np.testing.assert_array_equal(
    got.params["projector/linear_1/lora_b"],
    tensors[f"{linear}.lora_B.weight"].T,
  )
  fc1 = got.params["vision/layers/mlp/fc1/lora_a"]
  assert fc1.shape == (CONFIG.vision.num_layers, 16, RANK)
  np.testing.assert_array_equal(
    fc1[1], tensors[f"{tower}.mlp.fc1.lora_A.weight"].T
  )
  assert not fc1[0].any()


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_whole_tables_beside_the_adapter(tmp_path: Path, name: str):
  tensors = _tensors(PREFIXES["original"], "self_attn.q_proj", (32, 32))
  rows = CONFIG.decoder.vocab_size
  key = {"embed_tokens": "model.embed_tokens", "lm_head": "lm_head"}[name]
  config = dataclasses.replace(
    CONFIG, decoder=dataclasses.replace(CONFIG.decoder, tie_embeddings=False)
  )

  def read(count: int) -> dict:
    table = np.full((count, 32), 0.5, np.float32)
    folder = tmp_path / str(count)
    made = tensors | {f"base_model.model.{key}.weight": table}
    return peft_load.read_adapter(_folder(folder, made), config).others

  (value,) = read(rows).values()
  assert value.size == rows * 32
  with pytest.raises(UserError, match=rf"has {rows + 3} rows.*resize_token_em"):
    read(rows + 3)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_an_adapter_that_is_no_numbers(tmp_path: Path, bad: float):
  tensors = _tensors(PREFIXES["original"], "self_attn.q_proj", (32, 32))
  key = f"{PREFIXES['original']}.1.self_attn.q_proj.lora_A.weight"
  tensors[key][2, 7] = bad
  with pytest.raises(UserError, match=r"layers.1.*lora_A.* NaN or .*\[2, 7\]"):
    peft_load.read_adapter(_folder(tmp_path, tensors), CONFIG)


def test_layers_without_an_adapter_stay_zero(tmp_path: Path):
  tensors = _tensors(PREFIXES["original"], "self_attn.q_proj", (32, 32))
  kept = {k: v for k, v in tensors.items() if ".layers.1." in k}
  got = peft_load.read_adapter(_folder(tmp_path, kept), CONFIG).params
  assert not got["decoder/layers/self_attn/q_proj/lora_b"][0].any()
  assert got["decoder/layers/self_attn/q_proj/lora_b"][1].any()


def test_rank_stabilised(tmp_path: Path):
  tensors = _tensors(PREFIXES["original"], "self_attn.q_proj", (32, 32))
  got = peft_load.read_adapter(
    _folder(tmp_path, tensors, use_rslora=True), CONFIG
  ).config
  assert got.scale == pytest.approx(ALPHA / RANK**0.5)


def test_non_lora_trainables(tmp_path: Path):
  torch = pytest.importorskip("torch")
  tensors = _tensors(PREFIXES["original"], "self_attn.q_proj", (32, 32))
  folder = _folder(tmp_path, tensors)
  rng = np.random.default_rng(1)
  weight = rng.standard_normal((32, 16), np.float32)
  name = "model.mm_projector.0.weight"
  # as LLaVA writes it, wrapped twice, and what its loader takes besides
  for prefix in ("base_model.model.", "base_model.model." * 2, "", "model."):
    torch.save(
      {prefix + name: torch.from_numpy(weight)},
      folder / "non_lora_trainables.bin",
    )
    got = peft_load.read_adapter(folder, CONFIG).others
    assert list(got) == ["projector/linear_1/kernel"]
    np.testing.assert_array_equal(got["projector/linear_1/kernel"], weight.T)
  # the released run's is an empty dict
  torch.save({}, folder / "non_lora_trainables.bin")
  assert peft_load.read_adapter(folder, CONFIG).others == {}
  torch.save({"x.y": torch.zeros(1)}, folder / "non_lora_trainables.bin")
  with pytest.raises(
    UserError, match="non_lora_trainables.bin: unexpected x.y"
  ):
    peft_load.read_adapter(folder, CONFIG)


def _good() -> dict:
  return _tensors(PREFIXES["original"], "self_attn.q_proj", (32, 32))


def _without_b() -> dict:
  return {
    k: v for k, v in _good().items() if "0.self_attn.q_proj.lora_B" not in k
  }


def _wrong_shape() -> dict:
  return _tensors(PREFIXES["original"], "self_attn.k_proj", (32, 32))


@pytest.mark.parametrize(
  ("tensors", "fields", "message"),
  [
    (_good(), {"use_dora": True}, "use_dora is True, want it switched off"),
    (
      _good(),
      {"rank_pattern": {"q": 4}},
      "rank_pattern is .*want it switched off",
    ),
    (
      _good(),
      {"use_bdlora": {"nblocks": 2}},
      "use_bdlora is .*want it switched off",
    ),
    (
      _good(),
      {"kasa_config": {"beta": 1}},
      "kasa_config is .*want it switched off",
    ),
    (
      _good(),
      {"field_of_a_later_version": {"beta": 1}},
      "field_of_a_later_version is .*want it switched off",
    ),
    (_good(), {"bias": "all"}, "bias is 'all', want 'none'"),
    (_good(), {"peft_type": "IA3"}, "peft_type is 'IA3', want 'LORA'"),
    (_good(), {"r": None}, "r is None, want a whole number"),
    (_good(), {"lora_alpha": "a"}, "lora_alpha is 'a', want a number above 0"),
    (
      _good(),
      {"init_lora_weights": "pissa"},
      "'pissa', which changes the base",
    ),
    (_good() | {"x.weight": np.zeros(1, np.float32)}, {}, "1 unexpected tens"),
    (_without_b(), {}, "_A.weight has no matching lora_B"),
    (_wrong_shape(), {}, r"has shape \(32, 3\), want \(16, 3\)"),
    (_good(), {"r": 4}, r"lora_A.weight has shape \(3, 32\), want \(4, 32\)"),
  ],
)
def test_what_is_refused(tmp_path: Path, tensors, fields, message: str):
  with pytest.raises(UserError, match=message) as caught:
    peft_load.read_adapter(_folder(tmp_path, tensors, **fields), CONFIG)
  assert "\n" not in str(caught.value)


def test_no_adapter_there(tmp_path: Path):
  with pytest.raises(UserError, match="no weights in it; want adapter_model"):
    peft_load.read_adapter(tmp_path, CONFIG)


@pytest.mark.parametrize("layout", ["llava-hf", "original"])
def test_out_and_in_again(tmp_path: Path, layout: str):
  rng = np.random.default_rng(2)
  trained = {
    "decoder/layers/mlp/up_proj/lora_a": rng.standard_normal((2, 32, 3)),
    "decoder/layers/mlp/up_proj/lora_b": rng.standard_normal((2, 3, 48)),
    "projector/linear_2/bias": rng.standard_normal(32),
  }
  if layout == "original":
    pytest.importorskip("torch")
  trained = {k: v.astype(np.float32) for k, v in trained.items()}
  lora = LoraConfig(rank=3, alpha=6.0)
  peft_export.write_adapter(tmp_path, lora, trained, CONFIG, layout=layout)
  got = peft_load.read_adapter(tmp_path, CONFIG)
  for path, value in trained.items():
    np.testing.assert_array_equal({**got.params, **got.others}[path], value)
  assert (got.config.rank, got.config.alpha) == (3, 6.0)


def test_other_parameters_cannot_be_an_adapter(tmp_path: Path):
  trained = {"decoder/norm/scale": np.ones(32, np.float32)}
  with pytest.raises(UserError, match="decoder/norm/scale was trained"):
    peft_export.write_adapter(tmp_path, LoraConfig(3, 6.0), trained, CONFIG)


def test_merging():
  rng = np.random.default_rng(3)
  kernel, a, b = (
    rng.standard_normal(s, np.float32) for s in ((5, 7), (5, 2), (2, 7))
  )
  got = export.merged_kernel(kernel, a, b, 0.5, kernel.dtype, "q_proj")
  np.testing.assert_allclose(got, kernel + 0.5 * a @ b, rtol=1e-6)
