"""Every layout in and out: the same weights, the same logits."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

torch = pytest.importorskip("torch")
import transformers  # noqa: E402

from povid_jax import convert, files  # noqa: E402
from povid_jax.checkpoints import restore  # noqa: E402
from povid_jax.convert import incoming  # noqa: E402
from povid_jax.data import text  # noqa: E402
from povid_jax.data.tokenizer import load_tokenizer  # noqa: E402
from povid_jax.models.presets import preset  # noqa: E402
from povid_jax.models.vit import normalise  # noqa: E402
from povid_jax.weights import keys, load  # noqa: E402
from tests import small_tokenizer, torch_models  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  "ignore::DeprecationWarning", "ignore::FutureWarning"
)
from tests.convert.torch_layouts import (  # noqa: E402
  open_hf,
  original,
  same_logits,
  same_params,
  torch_model,
)


@pytest.mark.parametrize(
  ("tower_inside", "ending"), [(False, "bin"), (True, "safetensors")]
)
def test_original_layouts(tmp_path: Path, tower_inside: bool, ending: str):
  flags = original(tmp_path / "src", tower_inside, ending)
  dst = tmp_path / "dst"
  convert.main(
    ["from-torch", str(tmp_path / "src"), str(dst), "--dtype=float32", *flags]
  )
  same_params(dst)
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
  torch_model().config.save_pretrained(src)
  state = {}
  for name, value in torch_model().state_dict().items():
    for old, new in _GENERATIONS[generation].items():
      if name.startswith(old):
        name = new + name.removeprefix(old)
        break
    state[name] = value.numpy().copy()
  save_file(state, src / "model.safetensors")
  dst = tmp_path / "dst"
  convert.main(["from-torch", str(src), str(dst), "--dtype=float32"])
  same_params(dst)


def test_the_dtype_is_cast(tmp_path: Path):
  src = small_tokenizer.write(tmp_path / "src")
  torch_model().save_pretrained(src)
  convert.main(["from-torch", str(src), str(tmp_path / "dst")])
  params = restore.load(tmp_path / "dst").params
  assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("bfloat16")}
  want = load.open_checkpoint(src).params(jnp.bfloat16)
  for path, value in want.items():
    np.testing.assert_array_equal(params[path], value)


def test_parts_go_straight_into_a_sharding(tmp_path: Path):
  from povid_jax.models.sharding import make_mesh, sharding_for

  torch_model().save_pretrained(tmp_path)
  source = load.open_checkpoint(tmp_path)
  mesh = make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
  params = source.params(np.float32, sharding_for(mesh))
  whole = source.params(np.float32)
  for path, value in whole.items():
    np.testing.assert_array_equal(params[path], value)
  kernel = params["decoder/layers/mlp/up_proj/kernel"]
  assert kernel.addressable_shards[0].data.size == kernel.size // 8


def test_original_to_ours_to_transformers(tmp_path: Path):
  flags = original(tmp_path / "src", True, "safetensors")
  base, out = tmp_path / "base", tmp_path / "hf"
  convert.main(
    ["from-torch", str(tmp_path / "src"), str(base), "--dtype=float32", *flags]
  )
  convert.main(["to-hf", str(base), str(out)])
  model = open_hf(out)
  # <image> and <pad> need rows that the original does not have
  assert model.config.image_token_index == small_tokenizer.VOCAB
  assert model.config.text_config.vocab_size == 448
  same_logits(model, torch_model(), torch_models.IMAGE_ID)
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
  assert open_hf(tmp_path / "twice").config.text_config.vocab_size == 448


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


@pytest.mark.parametrize(
  "preset, template",
  [
    ("test", "short"),
    ("test-next", "vicuna_v1"),
    ("test-onevision", "qwen_1_5"),
    ("test-qwen", "qwen2_vl"),
  ],
)
def test_random_weights_speak_as_their_family(tmp_path, preset, template):
  out = tmp_path / "base"
  folder = small_tokenizer.write(tmp_path / "tokenizer")
  convert.main(
    ["init", str(out), f"--preset={preset}", f"--tokenizer={folder}"]
  )
  assert files.load_json(out / "model.json")["template"] == template


@pytest.mark.parametrize(
  "preset, template",
  [
    ("llava-mistral-7b", "mistral_instruct"),
    ("llava-next-34b", "chatml_direct"),
    ("llava-next-llama3-8b", "llava_llama_3"),
    ("llava-onevision-72b", "qwen_1_5"),
    ("qwen2.5-vl-3b", "qwen2_vl"),
    ("llava-1.5-13b", "vicuna_v1"),
  ],
)
def test_the_template_of_a_preset(preset, template):
  assert incoming._template_of(preset) == template
