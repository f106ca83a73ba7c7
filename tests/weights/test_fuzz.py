"""Odd files: whatever stands in them, the answer is a model or a UserError."""

import json
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from povid_jax import convert
from povid_jax.convert import chat
from povid_jax.weights import peft_load, safetensors_file
from povid_jax.weights.export import write_safetensors
from povid_jax.weights.load import open_checkpoint
from tests import fuzzing, small_world

pytestmark = pytest.mark.slow
RUNS = fuzzing.runs(300)
JSON = fuzzing.values("llama", "pad", "linear", "anyres")
ADAPTER = {
  "peft_type": "LORA",
  "r": 2,
  "lora_alpha": 4,
  "use_rslora": False,
  "init_lora_weights": True,
  "bias": "none",
  "rank_pattern": {},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
  root = tmp_path_factory.mktemp("fuzz")
  model = small_world.model_folder(root)
  for command, name in (("to-hf", "hf"), ("to-llava", "llava")):
    convert.main([command, str(model), str(root / name)])
  adapter = root / "adapter"
  adapter.mkdir()
  stem = "base_model.model.model.layers.0.mlp.up_proj"
  width = small_world.MODEL.decoder.hidden_size
  inner = small_world.MODEL.decoder.intermediate_size
  tensors = {
    f"{stem}.lora_A.weight": np.ones((2, width), np.float32),
    f"{stem}.lora_B.weight": np.ones((inner, 2), np.float32),
  }
  write_safetensors(adapter / "adapter_model.safetensors", tensors)
  (adapter / "adapter_config.json").write_text(json.dumps(ADAPTER))
  return {p.name: p for p in root.iterdir() if p.is_dir()}


@RUNS
@hypothesis.given(data=st.data(), name=st.sampled_from(["hf", "llava"]))
def test_config_json(folders: dict[str, Path], data: Any, name: str):
  folder = folders[name]
  tower = folder / "vision_tower" if name == "llava" else None
  ask = lambda: open_checkpoint(folder, tower)
  fuzzing.fuzzed(data, folder / "config.json", ask, JSON)


@RUNS
@hypothesis.given(data=st.data())
def test_the_towers_config_json(folders: dict[str, Path], data: Any):
  tower = folders["llava"] / "vision_tower"
  ask = lambda: open_checkpoint(folders["llava"], tower)
  fuzzing.fuzzed(data, tower / "config.json", ask, JSON)


@RUNS
@hypothesis.given(data=st.data())
def test_the_index(folders: dict[str, Path], data: Any):
  ask = lambda: open_checkpoint(folders["hf"])
  fuzzing.fuzzed(
    data, folders["hf"] / "model.safetensors.index.json", ask, JSON
  )


@RUNS
@hypothesis.given(data=st.data())
def test_adapter_config(folders: dict[str, Path], data: Any):
  folder = folders["adapter"]
  ask = lambda: peft_load.read_adapter(folder, small_world.MODEL)
  fuzzing.fuzzed(data, folder / "adapter_config.json", ask, JSON)


@RUNS
@hypothesis.given(data=st.data())
def test_settings_of_the_tokenizer(folders: dict[str, Path], data: Any):
  ask = lambda: chat.fitting(folders["hf"], "short")
  fuzzing.fuzzed(data, folders["hf"] / "tokenizer_config.json", ask, JSON)


@RUNS
@hypothesis.given(data=st.data())
def test_the_header_of_safetensors(folders: dict[str, Path], data: Any):
  file = folders["adapter"] / "adapter_model.safetensors"
  raw = file.read_bytes()
  length = int.from_bytes(raw[:8], "little")
  header = json.loads(raw[8 : 8 + length])
  path = data.draw(st.sampled_from(fuzzing.paths(header)))
  text = json.dumps(fuzzing.put(header, path, data.draw(JSON))).encode()
  spoilt = file.with_name("spoilt.safetensors")
  spoilt.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])

  def ask() -> None:
    for tensor in safetensors_file.read_safetensors(spoilt).values():
      tensor.read()

  fuzzing.survives(ask)


@RUNS
@hypothesis.given(junk=st.binary(max_size=64), at=st.integers(0, 400))
def test_bytes_of_safetensors(folders: dict[str, Path], junk: bytes, at: int):
  raw = (folders["adapter"] / "adapter_model.safetensors").read_bytes()
  spoilt = folders["adapter"] / "spoilt.safetensors"
  spoilt.write_bytes(raw[:at] + junk + raw[at + len(junk) :])

  def ask() -> None:
    for tensor in safetensors_file.read_safetensors(spoilt).values():
      tensor.read()

  fuzzing.survives(ask)
