"""What lies in a folder: each kind is named, with what to do about it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from povid_jax import convert, folders
from povid_jax.checkpoints import restore
from povid_jax.errors import UserError
from povid_jax.weights.export import write_safetensors
from povid_jax.weights.load import open_checkpoint
from tests import small_world

ZEROS = np.zeros((2, 2), np.float32)


def _write(folder: Path, *names: str, config: dict | None = None) -> None:
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
  if config is not None:
    (folder / "config.json").write_text(json.dumps(config))


def _lora(folder: Path) -> None:
  _write(folder, "adapter_model.bin", config={"model_type": "llava_llama"})
  base = json.dumps({"base_model_name_or_path": "a/base"})
  (folder / "adapter_config.json").write_text(base)


def _pointer(folder: Path) -> None:
  text = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
  (folder / "model-00001-of-00003.safetensors").write_bytes(text)


def _tensors(*names: str) -> Callable[[Path], None]:
  def make(folder: Path) -> None:
    dtypes = {"quant": np.uint8}
    _write(folder, config={"model_type": "llava_llama"})
    tensors = {
      n: ZEROS.astype(dtypes.get(n.split(".")[-1][:5], np.float32))
      for n in names
    }
    write_safetensors(folder / "model.safetensors", tensors)

  return make


def _with(*names: str) -> Callable[[Path], None]:
  return lambda folder: _write(folder, *names, config={"hidden_size": 4})


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (_lora, "a LoRA adapter alone of a/base: .* --adapter="),
    (_with("adapter_model.safetensors"), "without its adapter_config.json"),
    (_with("adapter_config.json"), "without its adapter_model.safetensors"),
    (_with("tokenizer.model"), "holds config.json, tokenizer.model, but no"),
    (_with("model.pth"), "a PyTorch file under a name of its own"),
    (_with("weights.npz"), "weights of MLX"),
    (_with("rank0.engine"), "an engine of TensorRT-LLM"),
    (_with("iter_9/x", "latest_checkpointed_iteration.txt"), "Megatron"),
    (lambda folder: _write(folder, "b.dat", "a.dat"), "holds a.dat, b.dat"),
    (_with("model-00001-of-00002.safetensors"), "look at number 2 of 2"),
    (_with("pytorch_model-00002-of-00002.bin",
           "pytorch_model-00001-of-00003.bin"), "look at number 3 of 3"),
    (_tensors("policy.model.embed_tokens.weight", "policy.lm_head.weight"),
     "a language model alone"),
    (_pointer, "model-00001.* git LFS pointer.*git lfs pull"),
    (_with("latest", "global_step9/mp_rank_00.pt"), "zero_to_fp32"),
    (_with("zero_pp_rank_0_mp_rank_00_optim_states.pt"), "zero_to_fp32"),
    (_with("pytorch_model_fsdp_0/__0_0.distcp"), "accelerate merge-weights"),
    (_with("mm_projector.bin"), "holds only a projector"),
    (_with("llava.Q4_K_M.gguf"), "GGUF"),
    (_with("consolidated.00.pth"), "Meta's own layout"),
    (_with(".cache/huggingface/download/a.incomplete"), "not finished"),
    (_with("checkpoint-9/config.json"), "one folder deeper: give checkpoint-9"),
    (_with("llava-7b/model.json"), "one folder deeper: give llava-7b"),
    (_tensors("model.mm_projector.0.weight"), "holds only a projector"),
    (_tensors("model.embed_tokens.weight", "lm_head.weight"),
     "a language model alone"),
    (_tensors("model.layers.0.mlp.up_proj.qweight"), "quantised"),
    (_tensors("model.layers.0.mlp.up_proj.base_layer.weight",
              "model.layers.0.mlp.up_proj.lora_A.default.weight"),
     "merge_and_unload"),
    (_tensors("text_model.x", "vision_model.y"), "a CLIP alone"),
  ],
)  # fmt: skip
def test_what_convert_says(
  tmp_path: Path, make: Callable[[Path], None], message: str
):
  folder = tmp_path / "src"
  folder.mkdir()
  make(folder)
  with pytest.raises(UserError, match=message):
    open_checkpoint(folder)


def test_a_folder_of_deepspeeds_own_name_is_read(tmp_path: Path):
  inner = tmp_path / "pytorch_model.bin"
  inner.mkdir()
  name = "pytorch_model-00001-of-00001.bin"
  index = {"weight_map": {"lm_head.weight": name}}
  (inner / "pytorch_model.bin.index.json").write_text(json.dumps(index))
  with pytest.raises(
    UserError, match=f"pytorch_model.bin/{name}: file not found"
  ):
    open_checkpoint(tmp_path)


@pytest.mark.parametrize(
  ("config", "name", "message"),
  [
    ({"model_type": "llava"}, "model.safetensors", "checkpoint of PyTorch "
     r"\(llava\).*convert from-torch"),
    ({"quantization_config": {"quant_method": "awq"}}, "model.safetensors",
     r"quantised \(awq\)"),
    ({"init": "x"}, "metrics/train.jsonl", "has saved no checkpoint"),
    ({"model_type": "llava"}, "adapter_model.bin", "part of a LoRA adapter"),
  ],
)  # fmt: skip
def test_what_a_checkpoint_that_is_none_is(
  tmp_path: Path, config: dict, name: str, message: str
):
  _write(tmp_path, name, config=config)
  with pytest.raises(UserError, match=message):
    restore.resolve(tmp_path)


def test_a_name_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.chdir(tmp_path)
  name = "llava-hf/llava-1.5-7b-hf"
  want = (
    f"hf download {name} --local-dir llava-1.5-7b-hf` .about 14 GB in 16 bits"
  )
  for ask in (restore.resolve, open_checkpoint):
    with pytest.raises(UserError, match=want):
      ask(name)
  assert folders.absent("a/b/c") == folders.absent("./a/b") == ""
  (tmp_path / "runs").mkdir()
  assert folders.absent("runs/stage1") == ""  # a slip, not a name


@pytest.mark.parametrize(
  "prefix", ["module._orig_mod.", "base_model.model.", "policy.", "model."]
)
def test_prefixes_of_wrappers_and_trainers_files(tmp_path: Path, prefix: str):
  """The same arrays under the names of DDP, PEFT, a trainer; inside a dict."""
  torch = pytest.importorskip("torch")
  base = small_world.model_folder(tmp_path)
  hf, again = tmp_path / "hf", tmp_path / "again"
  assert convert.main(["to-hf", str(base), str(hf)]) == 0
  (file,) = hf.glob("model-*.safetensors")
  from safetensors.torch import load_file

  state = load_file(file)
  for old in hf.glob("model*"):
    old.unlink()
  named = {f"{prefix}{key}": value for key, value in state.items()}
  torch.save({"epoch": 3, "state_dict": named}, hf / "pytorch_model.bin")
  flags = ["--dtype=float32", "--template=short"]
  assert convert.main(["from-torch", str(hf), str(again), *flags]) == 0
  want, got = (restore.load(f).params for f in (base, again))
  for path, value in got.items():
    if "embed" not in path and "lm_head" not in path:  # rows were added
      np.testing.assert_array_equal(value, want[path], err_msg=path)


def test_all_linear_is_folded_in(tmp_path: Path):
  base = small_world.model_folder(tmp_path)
  hf, dst = tmp_path / "hf", tmp_path / "dst"
  assert convert.main(["to-hf", str(base), str(hf)]) == 0
  want = restore.load(base).params
  rng = np.random.default_rng(0)
  tensors, deltas = {}, {}
  for module, path, layer in (
    ("multi_modal_projector.linear_2", "projector/linear_2", ...),
    ("vision_tower.vision_model.encoder.layers.1.mlp.fc2",
     "vision/layers/mlp/fc2", 1),
    ("language_model.layers.0.mlp.gate_proj", "decoder/layers/mlp/gate_proj",
     0),
  ):  # fmt: skip
    kernel = np.array(want[f"{path}/kernel"])
    d_in, d_out = kernel.shape[-2:]
    a, b = rng.standard_normal((2, d_in)), rng.standard_normal((d_out, 2))
    stem = f"base_model.model.model.{module}"
    tensors[f"{stem}.lora_A.weight"] = a.astype(np.float32)
    tensors[f"{stem}.lora_B.weight"] = b.astype(np.float32)
    kernel[layer] += 4.0 * (b @ a).T
    deltas[f"{path}/kernel"] = kernel
  adapter = tmp_path / "adapter"
  adapter.mkdir()
  write_safetensors(adapter / "adapter_model.safetensors", tensors)
  config = {"r": 2, "lora_alpha": 8, "target_modules": "all-linear"}
  (adapter / "adapter_config.json").write_text(json.dumps(config))
  flags = ["--dtype=float32", f"--adapter={adapter}"]
  assert convert.main(["from-torch", str(hf), str(dst), *flags]) == 0
  got = restore.load(dst).params
  for path, kernel in deltas.items():
    np.testing.assert_allclose(got[path], kernel, rtol=1e-5, atol=1e-6)
    assert not np.allclose(got[path], want[path])
