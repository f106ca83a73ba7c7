"""povid_jax.convert: there and back, in every layout, and what is refused."""

import contextlib
import functools
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")
import transformers  # noqa: E402

from povid_jax import convert  # noqa: E402
from povid_jax.checkpoints import restore  # noqa: E402
from povid_jax.data import text  # noqa: E402
from povid_jax.data.tokenizer import load_tokenizer  # noqa: E402
from povid_jax.errors import UserError  # noqa: E402
from povid_jax.models import params as params_lib  # noqa: E402
from povid_jax.models.presets import preset  # noqa: E402
from povid_jax.models.vit import normalise  # noqa: E402
from povid_jax.weights import keys, load  # noqa: E402
from tests import small_tokenizer, small_world, torch_models  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  "ignore::DeprecationWarning", "ignore::FutureWarning"
)


@functools.cache
def _torch_model() -> Any:
  return torch_models.llava("gqa", vocab_size=small_tokenizer.VOCAB)


def _renamed(name: str, vision: str) -> str:
  """A name of transformers 5 in the original layout."""
  for old, new in (
    ("model.vision_tower.", vision),
    ("model.multi_modal_projector.linear_1", "model.mm_projector.0"),
    ("model.multi_modal_projector.linear_2", "model.mm_projector.2"),
    ("model.language_model.", "model."),
  ):
    if name.startswith(old):
      return new + name.removeprefix(old)
  return name


def _original(folder: Path, tower_inside: bool, ending: str) -> list[str]:
  """Writes the original layout; returns the flags that convert needs."""
  model, config = _torch_model(), _torch_model().config
  inside = "model.vision_tower.vision_tower.vision_model."
  state = {_renamed(k, inside): v for k, v in model.state_dict().items()}
  state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
  tower = {k: v for k, v in state.items() if k.startswith(inside)}
  small_tokenizer.write(folder)
  described = config.text_config.to_dict() | {
    "model_type": "llava",
    "architectures": ["LlavaLlamaForCausalLM"],
    "mm_projector_type": "mlp2x_gelu",
    "image_aspect_ratio": "pad",
    "dtype": "float32",
  }
  (folder / "config.json").write_text(json.dumps(described))
  clip = folder.parent / "clip"
  clip.mkdir()
  (clip / "config.json").write_text(config.vision_config.to_json_string())
  if not tower_inside:
    state = {k: v for k, v in state.items() if k not in tower}
    prefix = inside.removesuffix("vision_model.")
    whole = {k.removeprefix(prefix): v for k, v in tower.items()}
    whole["text_model.embeddings.position_ids"] = torch.ones(3)
    whole["logit_scale"] = torch.ones(1)
    torch.save(whole, clip / "pytorch_model.bin")
  _write_shards(folder, state, ending)
  return [f"--vision-tower={clip}"]


def _write_shards(folder: Path, state: dict, ending: str) -> None:
  names = sorted(state)
  halves = names[: len(names) // 2], names[len(names) // 2 :]
  stem = "model" if ending == "safetensors" else "pytorch_model"
  weight_map = {}
  for i, half in enumerate(halves, 1):
    file = f"{stem}-0000{i}-of-00002.{ending}"
    part = {k: state[k].contiguous() for k in half}
    if ending == "bin":
      torch.save(part, folder / file)
    else:
      save_file({k: v.numpy() for k, v in part.items()}, folder / file)
    weight_map |= dict.fromkeys(half, file)
  index = folder / f"{stem}.{ending}.index.json"
  index.write_text(json.dumps({"weight_map": weight_map}))


def _same_params(folder: Path) -> None:
  """A model folder holds exactly the PyTorch model's weights."""
  with contextlib.ExitStack() as stack:
    temporary = folder.parent / "reference"
    stack.callback(shutil.rmtree, temporary)
    _torch_model().save_pretrained(temporary)
    want = load.open_checkpoint(temporary).params()
  got = restore.load(folder).params
  assert set(got) == set(want)
  for path, value in want.items():
    np.testing.assert_array_equal(got[path], value, err_msg=path)


@pytest.mark.parametrize(
  ("tower_inside", "ending"), [(False, "bin"), (True, "safetensors")]
)
def test_original_layouts(tmp_path: Path, tower_inside: bool, ending: str):
  flags = _original(tmp_path / "src", tower_inside, ending)
  dst = tmp_path / "dst"
  convert.main(
    ["from-torch", str(tmp_path / "src"), str(dst), "--dtype=float32", *flags]
  )
  _same_params(dst)
  weights = restore.load(dst)
  assert (weights.template, weights.config.layout.mode) == ("vicuna_v1", "pad")
  assert load_tokenizer(weights.tokenizer).eos_id == 2


_GENERATIONS = {
  "4.36": {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.": "vision_tower.vision_model.",
  },
  "4.52": {"model.vision_tower.": "model.vision_tower.vision_model."},
  "5": {},
}


@pytest.mark.parametrize("generation", _GENERATIONS)
def test_generations_of_llava_hf(tmp_path: Path, generation: str):
  src = small_tokenizer.write(tmp_path / "src")
  _torch_model().config.save_pretrained(src)
  state = {}
  for name, value in _torch_model().state_dict().items():
    for old, new in _GENERATIONS[generation].items():
      if name.startswith(old):
        name = new + name.removeprefix(old)
        break
    state[name] = value.numpy().copy()
  save_file(state, src / "model.safetensors")
  dst = tmp_path / "dst"
  convert.main(["from-torch", str(src), str(dst), "--dtype=float32"])
  _same_params(dst)


def test_the_dtype_is_cast(tmp_path: Path):
  src = small_tokenizer.write(tmp_path / "src")
  _torch_model().save_pretrained(src)
  convert.main(["from-torch", str(src), str(tmp_path / "dst")])
  params = restore.load(tmp_path / "dst").params
  assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("bfloat16")}
  want = load.open_checkpoint(src).params(jnp.bfloat16)
  for path, value in want.items():
    np.testing.assert_array_equal(params[path], value)


def test_parts_go_straight_into_a_sharding(tmp_path: Path):
  from povid_jax.models.sharding import make_mesh, sharding_for

  _torch_model().save_pretrained(tmp_path)
  source = load.open_checkpoint(tmp_path)
  mesh = make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
  params = source.params(np.float32, sharding_for(mesh))
  whole = source.params(np.float32)
  for path, value in whole.items():
    np.testing.assert_array_equal(params[path], value)
  kernel = params["decoder/layers/mlp/up_proj/kernel"]
  assert kernel.addressable_shards[0].data.size == kernel.size // 8


# -- out -----------------------------------------------------------------


def _logits(model: Any, ids: list[int], pixels: Any) -> np.ndarray:
  with torch.no_grad():
    out = model(input_ids=torch.tensor([ids]), pixel_values=pixels)
  return out.logits.numpy()


def _open_hf(folder: Path) -> Any:
  model, info = transformers.LlavaForConditionalGeneration.from_pretrained(
    folder, output_loading_info=True, dtype=torch.float32
  )
  assert not any(info.values()), info
  return model.eval()


def _same_logits(ours: Any, theirs: Any, image_token: int) -> None:
  """Two torch models agree, each with its own id of <image>."""
  tokens = 16  # 28 pixels in patches of 7
  pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
  ids = lambda image: [1, *[image] * tokens, 5, 6, 7, 8, 9]
  rows = small_tokenizer.VOCAB
  got = _logits(ours, ids(ours.config.image_token_index), pixels)[..., :rows]
  want = _logits(theirs, ids(image_token), pixels)[..., :rows]
  assert np.abs(got - want).max() <= 2e-4
  assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


def test_original_to_ours_to_transformers(tmp_path: Path):
  flags = _original(tmp_path / "src", True, "safetensors")
  base, out = tmp_path / "base", tmp_path / "hf"
  convert.main(
    ["from-torch", str(tmp_path / "src"), str(base), "--dtype=float32", *flags]
  )
  convert.main(["to-hf", str(base), str(out)])
  model = _open_hf(out)
  # <image> and <pad> need rows that the original does not have
  assert model.config.image_token_index == small_tokenizer.VOCAB
  assert model.config.text_config.vocab_size == 448
  _same_logits(model, _torch_model(), torch_models.IMAGE_ID)
  # and in again: nothing is lost, nothing grows twice
  again = tmp_path / "again"
  convert.main(["from-torch", str(out), str(again), "--dtype=float32"])
  first, second = restore.load(base), restore.load(again)
  assert (second.template, second.config.layout.mode) == ("vicuna_v1", "pad")
  for path, value in first.params.items():
    other = second.params[path]
    if "embed_tokens" in path:
      other = other[: len(value)]
    elif "lm_head" in path:
      other = other[:, : value.shape[1]]
    np.testing.assert_array_equal(other, value)
  convert.main(["to-hf", str(again), str(tmp_path / "twice")])
  assert _open_hf(tmp_path / "twice").config.text_config.vocab_size == 448


def test_the_processor_gives_our_tokens_and_pixels(tmp_path: Path):
  base, out = tmp_path / "base", tmp_path / "hf"
  folder = small_tokenizer.write(tmp_path / "tokenizer")
  convert.main(["init", str(base), "--preset=test", f"--tokenizer={folder}"])
  convert.main(["to-hf", str(base), str(out)])
  processor = transformers.AutoProcessor.from_pretrained(out)
  said = ("What is in it?", "Two  cats.\n", "More?")
  parts = lambda said: [{"type": "text", "text": said}]
  messages = [
    {"role": "user", "content": [{"type": "image"}, *parts(said[0])]},
    {"role": "assistant", "content": parts(said[1])},
    {"role": "user", "content": said[2]},
  ]
  rng = np.random.default_rng(0)
  image = Image.fromarray(rng.integers(0, 256, (28, 41, 3), np.uint8))
  got = processor(
    text=processor.apply_chat_template(messages),
    images=[image],
    return_tensors="np",
  )
  config = restore.describe(base)
  want = text.encode_prompt(
    ("<image>\n" + said[0], *said[1:]),
    load_tokenizer(base / "tokenizer"),
    "short",
    config.image_tokens,
  )
  image_id = json.loads((out / "config.json").read_text())["image_token_index"]
  ids = got["input_ids"][0]
  assert ids.tolist() == np.where(want == -200, image_id, want).tolist()
  from povid_jax.data.image import preprocess
  from povid_jax.models.vit import normalise

  pixels = normalise(preprocess(image, 28, "pad")).transpose(2, 0, 1)
  np.testing.assert_allclose(got["pixel_values"][0], pixels, atol=1e-5)


def test_init_is_a_function_of_the_seed(tmp_path: Path):
  folder = small_tokenizer.write(tmp_path / "tokenizer")
  make = lambda name, seed: convert.main(
    ["init", str(tmp_path / name), "--preset=test", f"--seed={seed}",
     f"--tokenizer={folder}"]
  )  # fmt: skip
  for name, seed in (("a", 0), ("b", 0), ("c", 1)):
    make(name, seed)
  a, b, c = (restore.load(tmp_path / name) for name in "abc")
  assert a.config.decoder.vocab_size == 448
  assert a.config.vision == preset("test").vision
  path = "decoder/lm_head/kernel"
  assert set(a.params) == {entry.path for entry in keys.entries(a.config)}
  np.testing.assert_array_equal(a.params[path], b.params[path])
  assert not np.array_equal(a.params[path], c.params[path])
  assert a.template == "short"


# -- refusals ------------------------------------------------------------


def _no_weights(src: Path) -> None:
  (src / "model.safetensors").unlink()


def _missing_shard(src: Path) -> None:
  _no_weights(src)
  index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
  (src / "model.safetensors.index.json").write_text(json.dumps(index))


def _truncated(src: Path) -> None:
  file = src / "model.safetensors"
  file.write_bytes(file.read_bytes()[:-10])


def _wrong_shape(src: Path) -> None:
  tensors = load_file(src / "model.safetensors")
  name = "language_model.model.norm.weight"
  tensors[name] = tensors[name][:-1].copy()
  save_file(tensors, src / "model.safetensors")


def _whole_numbers(src: Path) -> None:
  tensors = load_file(src / "model.safetensors")
  name = "language_model.model.norm.weight"
  tensors[name] = tensors[name].astype(np.int32)
  save_file(tensors, src / "model.safetensors")


def _extra_key(src: Path) -> None:
  tensors = load_file(src / "model.safetensors")
  tensors["model.image_newline"] = np.zeros(3, np.float32)
  save_file(tensors, src / "model.safetensors")


def _another_head(src: Path) -> None:
  config = json.loads((src / "config.json").read_text())
  config["tie_word_embeddings"] = True
  (src / "config.json").write_text(json.dumps(config))


def _no_tokenizer(src: Path) -> None:
  (src / "tokenizer.model").unlink()


def _no_end_token(src: Path) -> None:
  import sentencepiece

  with open(src / "tokenizer.model", "wb") as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(["a b c d"]), model_writer=file, vocab_size=10,
      hard_vocab_limit=False, eos_id=-1, minloglevel=2,
    )  # fmt: skip


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (_no_weights, "src: no weights in it; want model.safetensors"),
    (_missing_shard, "model-00001-of-00002.safetensors: missing; "),
    (_truncated, "model.safetensors: truncated: "),
    (_wrong_shape, r"norm.weight has shape \(47,\), want \(48,\)"),
    (_whole_numbers, "norm.weight has dtype int32, want a floating-point one"),
    (_extra_key, r"src: tensors 1 unexpected \(model.image_newline\)"),
    (
      _another_head,
      "lm_head.weight differs from .*tie_word_embeddings is true",
    ),
    (_no_tokenizer, "src: no tokenizer.model or tokenizer.json in it"),
    (
      _no_end_token,
      "tokenizer.model: no end-of-text token; want one with </s>",
    ),
  ],
)
def test_bad_sources(tmp_path: Path, spoil: Callable, message: str):
  src = small_tokenizer.write(tmp_path / "src")
  _torch_model().save_pretrained(src)
  spoil(src)
  with pytest.raises(UserError, match=message) as caught:
    convert.main(["from-torch", str(src), str(tmp_path / "dst")])
  assert "\n" not in str(caught.value)
  assert [p.name for p in tmp_path.iterdir()] == ["src"]


def test_a_crash_half_way_leaves_nothing(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  src = small_tokenizer.write(tmp_path / "src")
  _torch_model().save_pretrained(src)
  real, calls = load.Source.read_layer, []

  def failing(self, *args):
    calls.append(args)
    if len(calls) > 20:
      raise OSError("disk on fire")
    return real(self, *args)

  monkeypatch.setattr(load.Source, "read_layer", failing)
  with pytest.raises(OSError, match="fire"):
    convert.main(["from-torch", str(src), str(tmp_path / "dst")])
  assert [p.name for p in tmp_path.iterdir()] == ["src"]


def test_the_command_line(tmp_path: Path):
  """One line on stderr, exit code 2, no folder."""
  done = subprocess.run(
    [sys.executable, "-m", "povid_jax.convert", "from-torch", "nowhere",
     str(tmp_path / "dst")],
    capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False,
  )  # fmt: skip
  assert done.returncode == 2
  assert done.stderr == "error: nowhere: no such folder\n"
  assert not list(tmp_path.iterdir())


def test_a_destination_that_exists(tmp_path: Path):
  src = small_tokenizer.write(tmp_path / "src")
  _torch_model().save_pretrained(src)
  (tmp_path / "dst").mkdir()
  (tmp_path / "dst" / "mine").write_text("x")
  with pytest.raises(UserError, match="dst exists already"):
    convert.main(["from-torch", str(src), str(tmp_path / "dst")])
  assert (tmp_path / "dst" / "mine").read_text() == "x"


# -- runs ----------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
  src = small_tokenizer.write(tmp_path / "src")
  _torch_model().save_pretrained(src)
  convert.main(
    ["from-torch", str(src), str(tmp_path / "base"), "--dtype=float32"]
  )
  return tmp_path / "base"


def _our_logits(spec: Path | str, merged: bool) -> np.ndarray:
  weights = restore.load(spec)
  weights = weights.merged() if merged else weights
  graph, _ = params_lib.abstract(weights.config, weights.lora)
  model = params_lib.merge(graph, weights.params)
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (1, 1, 28, 28, 3), np.uint8)
  ids = np.array([[1, *[-200] * 16, 5, 6, 7, 8, 9]])

  def forward(ids: Any, images: Any) -> Any:
    hidden, _ = model.prefill(ids, model.encode_images(images))
    return model.decoder.logits(hidden)

  return np.asarray(jax.jit(forward)(ids, images))


def _torch_logits(model: Any, image_token: int) -> np.ndarray:
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (1, 28, 28, 3), np.uint8)
  pixels = np.asarray(normalise(images)).transpose(0, 3, 1, 2).copy()
  ids = [1, *[image_token] * 16, 5, 6, 7, 8, 9]
  return _logits(model, ids, torch.from_numpy(pixels))


def _close(got: np.ndarray, want: np.ndarray) -> None:
  rows = small_tokenizer.VOCAB
  got, want = got[..., :rows], want[..., :rows]
  assert np.abs(got - want).max() <= 2e-4
  assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


@pytest.mark.parametrize("projector", [False, True])
def test_a_run_as_merged_weights_and_as_an_adapter(
  tmp_path: Path, base: Path, projector: bool
):
  peft = pytest.importorskip("peft")
  run = small_world.run_folder(tmp_path, base, projector)
  want = _our_logits(run, merged=False)
  assert np.abs(want - _our_logits(base, merged=False)).max() > 0.1
  _close(_our_logits(run, merged=True), want)
  for name, *flags in (("merged",), ("plain", "--base-only")):
    convert.main(["to-hf", str(run), str(tmp_path / name), *flags])
  convert.main(["to-peft", str(run), str(tmp_path / "adapter")])
  merged, plain = (_open_hf(tmp_path / n) for n in ("merged", "plain"))
  image = merged.config.image_token_index
  _close(_torch_logits(merged, image), want)
  _close(_torch_logits(plain, image), _our_logits(base, merged=False))
  with warnings.catch_warnings():
    warnings.filterwarnings("error", message=".*(adapter keys|missing|unexp).*")
    wrapped = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
  _close(_torch_logits(wrapped.eval(), image), want)


def test_a_chain_of_two_runs(tmp_path: Path, base: Path):
  """Stage 2 on stage 1: both adapters are folded in, or the first alone."""
  first = small_world.run_folder(tmp_path, base, projector=True)
  second = small_world.run_folder(tmp_path, first, projector=False, seed=1)
  for spec, *flags in ((second,), (second, "--base-only")):
    out = tmp_path / f"hf{len(flags)}"
    convert.main(["to-hf", str(spec), str(out), *flags])
    want = restore.load(first if flags else second).merged().params
    got = load.open_checkpoint(out).params()
    for path, value in want.items():
      if "embed_tokens" in path or "lm_head" in path:
        continue  # these grew
      np.testing.assert_allclose(got[path], value, atol=1e-5, err_msg=path)


def test_an_adapter_folds_in_on_the_way_in(tmp_path: Path, base: Path):
  run = small_world.run_folder(tmp_path, base, projector=False)
  convert.main(
    ["to-peft", str(run), str(tmp_path / "adapter"), "--layout=original"]
  )
  convert.main(
    ["from-torch", str(tmp_path / "src"), str(tmp_path / "folded"),
     "--dtype=float32", f"--adapter={tmp_path / 'adapter'}"]
  )  # fmt: skip
  want = restore.load(run).merged().params
  got = restore.load(tmp_path / "folded").params
  assert set(got) == set(want)
  for path, value in want.items():
    np.testing.assert_allclose(got[path], value, atol=1e-6, err_msg=path)


def test_only_a_run_has_an_adapter(tmp_path: Path, base: Path):
  with pytest.raises(UserError, match="base is a model folder; want the dir"):
    convert.main(["to-peft", str(base), str(tmp_path / "adapter")])
  assert not (tmp_path / "adapter").exists()
