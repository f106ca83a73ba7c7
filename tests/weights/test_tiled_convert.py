"""LLaVA-NeXT and LLaVA-OneVision there and back, and what transformers then
makes of text and pixels."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import tokenizers as hf_tokenizers  # noqa: E402
import transformers  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from povid_jax import convert  # noqa: E402
from povid_jax.checkpoints import restore  # noqa: E402
from povid_jax.data import layout, text  # noqa: E402
from povid_jax.data.tokenizer import load_tokenizer  # noqa: E402
from povid_jax.errors import UserError  # noqa: E402
from povid_jax.models import params as params_lib  # noqa: E402
from povid_jax.models.config import LoraConfig  # noqa: E402
from povid_jax.weights import peft_export, peft_load  # noqa: E402
from povid_jax.weights.load import open_checkpoint  # noqa: E402
from tests import tiled_models  # noqa: E402
from tests.tiled_models import FAMILIES, IMAGE_ID  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  "ignore::DeprecationWarning", "ignore::FutureWarning"
)
VOCAB = 96
_ENDS = {"next": "</s>", "onevision": "<|im_end|>"}


def _words(folder: Path, family: str) -> Path:
  """A byte-level tokenizer of fewer than VOCAB tokens, with its settings."""
  letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
  marks = list("ĠĊ.?:'QUESRATINYWHAE0123,-[]I")
  special = ["<unk>", "<s>", "</s>"]
  if family == "onevision":
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
  pieces = [*special, *dict.fromkeys([*letters, *marks])]
  made = hf_tokenizers.Tokenizer(
    hf_tokenizers.models.BPE({piece: i for i, piece in enumerate(pieces)}, [])
  )
  made.pre_tokenizer = hf_tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  made.decoder = hf_tokenizers.decoders.ByteLevel()
  made.add_special_tokens(special)
  folder.mkdir(parents=True, exist_ok=True)
  made.save(str(folder / "tokenizer.json"))
  settings = {"eos_token": _ENDS[family]}
  if family == "next":
    settings["bos_token"] = "<s>"
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  return folder


_OLD = {
  "next": {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.image_newline": "image_newline",
  }
}
_OLD["onevision"] = _OLD["next"]
_ORIGINAL = {
  "model.language_model.": "model.",
  "model.multi_modal_projector.linear_1": "model.mm_projector.0",
  "model.multi_modal_projector.linear_2": "model.mm_projector.2",
  "model.vision_tower.": "model.vision_tower.vision_tower.vision_model.",
}


def _renamed(family: str, names: dict[str, str]) -> dict[str, np.ndarray]:
  """The model's tensors; a tied head is not written."""
  out = {}
  for name, value in tiled_models.model(family).state_dict().items():
    if family == "onevision" and name.startswith("lm_head"):
      continue
    for old, new in names.items():
      if name.startswith(old):
        name = new + name.removeprefix(old)
        break
    out[name] = value.numpy().copy()
  return out


def _processor_file(family: str, folder: Path) -> None:
  made = tiled_models.processor(family).to_dict()
  file = folder / "preprocessor_config.json"
  file.write_text(json.dumps(made, default=lambda x: dict(x)))


def _same(one: dict[str, Any], two: dict[str, Any]) -> None:
  assert set(one) == set(two)
  for path, value in one.items():
    np.testing.assert_array_equal(two[path], value, err_msg=path)


@pytest.mark.parametrize("family", FAMILIES)
def test_generations_of_names(tmp_path: Path, family: str):
  want = tiled_models.ours(family).params
  for i, names in enumerate((_OLD[family], {})):
    folder = tmp_path / str(i)
    tiled_models.model(family).config.save_pretrained(folder)
    save_file(_renamed(family, names), folder / "model.safetensors")
    _same(want, open_checkpoint(folder).params())


def _original(family: str, folder: Path) -> Path:
  """The layout of LLaVA-NeXT's own code, the tower inside."""
  theirs = tiled_models.model(family).config
  described = theirs.text_config.to_dict() | {
    "model_type": "llava_llama" if family == "next" else "llava_qwen",
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_vision_select_layer": -2,
    "image_aspect_ratio": "anyres" if family == "next" else "anyres_max_9",
    "image_grid_pinpoints": theirs.image_grid_pinpoints
    if family == "next"
    else "(1x1),...,(6x6)",
  }
  _words(folder, family)
  (folder / "config.json").write_text(json.dumps(described))
  save_file(_renamed(family, _ORIGINAL), folder / "model.safetensors")
  tower = folder.parent / "tower"
  tower.mkdir()
  (tower / "config.json").write_text(theirs.vision_config.to_json_string())
  return tower


@pytest.mark.parametrize("family", FAMILIES)
def test_the_original_layout(tmp_path: Path, family: str):
  tower = _original(family, tmp_path / "src")
  made = open_checkpoint(tmp_path / "src", tower)
  assert made.config == tiled_models.ours(family).config
  _same(tiled_models.ours(family).params, made.params())


def test_a_folder_without_its_tower_is_refused(tmp_path: Path):
  tower = _original("next", tmp_path / "src")
  file = tmp_path / "src/model.safetensors"
  kept = {k: v for k, v in load_file(file).items() if "vision_tower" not in k}
  save_file(kept, file)
  with pytest.raises(UserError, match="trained together with its own tower"):
    open_checkpoint(tmp_path / "src", tower)


_CLASSES = {
  "next": transformers.LlavaNextForConditionalGeneration,
  "onevision": transformers.LlavaOnevisionForConditionalGeneration,
}


def _processor(family: str, folder: Path) -> Any:
  """The folder's processor, with Pillow's image processor in it."""
  if family == "next":
    return transformers.AutoProcessor.from_pretrained(folder, backend="pil")
  # its video processor needs torchvision: put together without it
  said = json.loads((folder / "processor_config.json").read_text())
  assert said.pop("processor_class") == "LlavaOnevisionProcessor"
  assert (folder / "video_preprocessor_config.json").is_file()

  class WithoutVideos(transformers.LlavaOnevisionProcessor):
    @classmethod
    def get_attributes(cls):
      return ["image_processor", "tokenizer"]

  images = type(tiled_models.processor(family)).from_pretrained(folder)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  template = (folder / "chat_template.jinja").read_text()
  return WithoutVideos(images, tokenizer, None, chat_template=template, **said)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_opens_what_we_write(tmp_path: Path, family: str):
  """Out and in again: equal logits, equal ids and pixels from its processor."""
  src = _words(tmp_path / "src", family)
  tiled_models.save(family, src)
  _processor_file(family, src)
  ends = {"eos_token_id": [2, 0]}
  (src / "generation_config.json").write_text(json.dumps(ends))
  base, out = tmp_path / "base", tmp_path / "hf"
  convert.main(["from-torch", str(src), str(base), "--dtype=float32"])
  convert.main(["to-hf", str(base), str(out)])

  model, info = _CLASSES[family].from_pretrained(
    out, output_loading_info=True, dtype=torch.float32
  )
  assert not any(info.values()), info
  written = json.loads((out / "config.json").read_text())
  assert written["architectures"] == [_CLASSES[family].__name__]
  assert model.generation_config.eos_token_id == [2, 0]

  picture = tiled_models.picture(40, 30)
  processor = _processor(family, out)
  said = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
  messages = [
    {"role": "user", "content": said},
    {"role": "assistant", "content": [{"type": "text", "text": "a cat."}]},
    {"role": "user", "content": "sure?"},
  ]
  got = processor(
    text=processor.apply_chat_template(messages),
    images=[picture],
    return_tensors="pt",
  )
  weights = restore.load(base)
  made = layout.of(weights.config)
  want = text.encode_prompt(
    ("<image>\nwhat is it?", "a cat.", "sure?"),
    load_tokenizer(base / "tokenizer"),
    weights.template,
    [extent.tokens for extent in made.measure([picture.size])],
  )
  image_id = written["image_token_index"]
  ids = got["input_ids"][0].numpy()
  assert ids.tolist() == np.where(want == -200, image_id, want).tolist()
  assert text.stop_ids(
    load_tokenizer(base / "tokenizer"), text.find_template(weights.template)
  ) == (2, 0)
  tower = weights.config.square_tower
  pixels = got["pixel_values"][0].numpy().transpose(0, 2, 3, 1)
  ours = made.cut([picture]).pixels / np.float32(255)
  ours = (ours - np.float32(tower.mean)) / np.float32(tower.std)
  np.testing.assert_allclose(pixels, ours, atol=1e-5)

  theirs = tiled_models.model(family)
  inputs = {k: v for k, v in got.items() if k != "input_ids"}
  with torch.no_grad():
    new = model(input_ids=got["input_ids"], **inputs).logits
    their_ids = torch.where(
      got["input_ids"] == image_id, IMAGE_ID, got["input_ids"]
    )
    old = theirs(input_ids=their_ids, **inputs).logits
  assert (new[..., :VOCAB] - old).abs().max() <= 1e-5

  again = tmp_path / "again"
  convert.main(["from-torch", str(out), str(again), "--dtype=float32"])
  second = restore.load(again)
  assert second.template == weights.template
  assert second.config.layout == weights.config.layout
  assert second.config.vision == weights.config.vision


def test_flags_of_pictures(tmp_path: Path):
  src = _words(tmp_path / "src", "next")
  tiled_models.save("next", src)
  run = lambda *flags: convert.main(
    ["from-torch", str(src), str(tmp_path / "dst"), "--dtype=float32", *flags]
  )
  with pytest.raises(UserError, match="--image-mode=pad is for models with"):
    run("--image-mode=pad")
  run("--pinpoints=original")
  assert restore.describe(tmp_path / "dst").layout.reader == "original"
  with pytest.raises(UserError, match="reader='original'"):
    convert.main(["to-hf", str(tmp_path / "dst"), str(tmp_path / "out")])
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_on_every_part_for_peft(tmp_path: Path, family: str):
  """Ours out, PEFT's model has the logits; PEFT's file in, ours again."""
  peft = pytest.importorskip("peft")
  ours = tiled_models.ours(family)
  targets = r"(q_proj|fc1|linear_1|gate_proj)$"
  lora = LoraConfig(rank=2, alpha=4.0, targets=targets)
  _, shapes = params_lib.abstract(ours.config, lora)
  rng = np.random.default_rng(0)
  trained = {
    path: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32)
    for path, leaf in shapes.items()
    if params_lib.is_lora(path)
  }
  parts = {path.split("/")[0] for path in trained}
  assert parts == {"vision", "projector", "decoder"}
  peft_export.write_adapter(tmp_path, lora, trained, ours.config)
  back = peft_load.read_adapter(tmp_path, ours.config)
  _same(trained, back.params)

  wrapped = peft.PeftModel.from_pretrained(
    copy.deepcopy(tiled_models.model(family)), tmp_path
  ).eval()
  picture = tiled_models.picture(40, 30)
  prompt = [IMAGE_ID if i < 0 else i for i in ours.prompt([picture])]
  tokens = torch.tensor([prompt])
  with torch.no_grad():
    want = wrapped(
      input_ids=tokens,
      attention_mask=torch.ones_like(tokens),
      **tiled_models.pixels(family, [picture]),
    ).logits[0]
  graph, _ = params_lib.abstract(ours.config, lora)
  model = params_lib.merge(graph, {**ours.params, **trained})
  embeds = model.encode_images(ours.images([[picture]]))
  ids = np.array([ours.prompt([picture])], np.int32)
  got = model.decoder.logits(model.prefill(ids, embeds)[0])[0]
  assert np.abs(got - want.numpy()).max() <= 2e-5
  plain = model.encode_images(ours.images([[picture]]), adapter=False)
  assert np.abs(plain - embeds).max() > 1e-3
