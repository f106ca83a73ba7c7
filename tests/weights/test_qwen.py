"""Qwen2.5-VL's folders: every generation of names in, transformers out."""

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from povid_jax import convert  # noqa: E402
from povid_jax.checkpoints import restore  # noqa: E402
from povid_jax.errors import UserError  # noqa: E402
from povid_jax.models import params as params_lib  # noqa: E402
from povid_jax.models.config import LoraConfig  # noqa: E402
from povid_jax.weights import keys, peft_export, peft_load, qwen  # noqa: E402
from povid_jax.weights.load import open_checkpoint  # noqa: E402
from tests import qwen_models, qwen_world  # noqa: E402
from tests.data.test_qwen_text import CASES, byte_level  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
IDS = dict(
  image_token_id=262,
  video_token_id=263,
  vision_start_token_id=260,
  vision_end_token_id=261,
)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def folder(request, tmp_path_factory):
  """A folder as transformers writes it, with tokenizer and processor."""
  folder = tmp_path_factory.mktemp("qwen")
  byte_level(folder)
  model = qwen_models.qwen(
    vocab_size=320, tie_word_embeddings=request.param, ids=IDS
  )
  model.save_pretrained(folder)
  qwen_models.processor().save_pretrained(folder)
  return folder


def _rewrite(folder, target, rename, flat: bool):
  """The same model with other names of tensors, and a flat config.json."""
  shutil.copytree(folder, target)
  tensors = load_file(target / "model.safetensors")
  renamed = {rename(name): tensor for name, tensor in tensors.items()}
  save_file(renamed, target / "model.safetensors", {"format": "pt"})
  c = json.loads((target / "config.json").read_text())
  if flat:
    text = c.pop("text_config")
    rope = text.pop("rope_parameters")
    text.pop("model_type")
    c = text | c
    c["rope_theta"] = rope["rope_theta"]
    c["rope_scaling"] = {
      "type": "mrope",
      "mrope_section": rope["mrope_section"],
    }
  (target / "config.json").write_text(json.dumps(c))
  return target


def _on_disk(name: str) -> str:
  """Names up to 4.51, and on the hub."""
  name = name.removeprefix("model.language_model.")
  if name.startswith("model.visual."):
    return name.removeprefix("model.")
  return (
    name
    if name.startswith(("visual.", "lm_head.", "model."))
    else ("model." + name)
  )


def test_generations_of_names(folder, tmp_path):
  new, disk = open_checkpoint(folder), tmp_path / "disk"
  _rewrite(folder, disk, _on_disk, flat=True)
  kept = load_file(disk / "model.safetensors")
  assert {name.split(".")[0] for name in kept} <= {"visual", "model", "lm_head"}
  old = open_checkpoint(disk)
  assert old.config == new.config
  assert old.template == new.template == "qwen2_vl"
  one, two = (source.params(np.float32) for source in (old, new))
  assert one.keys() == two.keys()
  for path, value in one.items():
    np.testing.assert_array_equal(value, two[path])


def test_what_transformers_assumes():
  """Fields that a config.json may leave out."""
  vision = transformers.models.qwen2_5_vl.configuration_qwen2_5_vl
  theirs = vision.Qwen2_5_VLVisionConfig()
  for name, value in qwen.VISION_DEFAULTS.items():
    found = getattr(theirs, name)
    assert (list(found) if isinstance(found, tuple) else found) == value
  theirs = vision.Qwen2_5_VLTextConfig()
  for name, value in qwen.TEXT_DEFAULTS.items():
    found = (
      theirs.rope_parameters["rope_theta"]
      if name == "rope_theta"
      else getattr(theirs, name)
    )
    assert found == value, name


def _logits(model, ids, pictures):
  given = qwen_models.processor()(images=pictures, return_tensors="pt")
  kinds = (np.array(ids) == IDS["image_token_id"]).astype(np.int32)
  with torch.no_grad():
    return model(
      input_ids=torch.tensor([ids]),
      mm_token_type_ids=torch.from_numpy(kinds)[None],
      **given,
    ).logits


def test_there_and_back(folder, tmp_path):
  """convert, export, transformers: equal logits, equal pixels and prompt."""
  ours, out = tmp_path / "ours", tmp_path / "out"
  convert.main(["from-torch", str(folder), str(ours), "--dtype=keep"])
  assert restore.describe(ours) == qwen.from_hf(folder)
  convert.main(["to-hf", str(ours), str(out)])
  load = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained
  want, got = (
    load(x, attn_implementation="eager", dtype=torch.float32)
    for x in (folder, out)
  )
  for name in IDS:
    assert getattr(got.config, name) == getattr(want.config, name)
  pictures = [qwen_world.picture(60, 44)]
  # their whole processor wants torchvision, for videos
  processor = transformers.AutoImageProcessor.from_pretrained(
    out, backend="pil"
  )
  made = processor(images=pictures, return_tensors="pt")
  given = qwen_models.processor()(images=pictures, return_tensors="pt")
  for name, value in given.items():
    assert torch.equal(made[name], value)
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
  prompt = tokenizer.apply_chat_template(
    [{"role": "user", "content": parts}], tokenize=False
  )
  assert prompt == CASES["one"][1]
  image = "<|image_pad|>"
  ids = tokenizer(prompt.replace(image, 4 * 3 * image))["input_ids"]
  assert ids.count(IDS["image_token_id"]) == 4 * 3
  difference = _logits(got, ids, pictures) - _logits(want, ids, pictures)
  assert difference.abs().max() == 0
  again = open_checkpoint(out)
  assert again.config == open_checkpoint(folder).config
  assert again.template == "qwen2_vl"


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"out_hidden_size": 7}, "out_hidden_size"),
    ({"fullatt_block_indexes": [9]}, "fullatt_block_indexes"),
    ({"window_size": 30}, "window_size"),
  ],
)
def test_towers_that_we_do_not_compute(folder, tmp_path, change, reason):
  shutil.copytree(folder, tmp_path / "other")
  file = tmp_path / "other" / "config.json"
  c = json.loads(file.read_text())
  c["vision_config"] |= change
  file.write_text(json.dumps(c))
  with pytest.raises(UserError, match=reason):
    qwen.from_hf(tmp_path / "other")


def test_processors_that_we_do_not_compute(folder, tmp_path):
  shutil.copytree(folder, tmp_path / "other")
  (file,) = (tmp_path / "other").glob("*processor_config.json")
  c = json.loads(file.read_text())
  (c.get("image_processor") or c)["resample"] = 2
  file.write_text(json.dumps(c))
  with pytest.raises(UserError, match="resample"):
    qwen.from_hf(tmp_path / "other")
  file.unlink()
  with pytest.raises(UserError, match="preprocessor_config"):
    qwen.from_hf(tmp_path / "other")


def _trained(config, lora, seed=3):
  """Adapters on tower, merger and decoder that show."""
  _, shapes = params_lib.abstract(config, lora)
  rng = np.random.default_rng(seed)
  return {
    path: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32)
    for path, leaf in shapes.items()
    if params_lib.is_lora(path)
  }


@pytest.mark.parametrize("folder", [False], ids=["untied"], indirect=True)
def test_adapters_there_and_back(folder, tmp_path):
  """PEFT puts ours on its model and computes what merging them gives."""
  peft = pytest.importorskip("peft")
  source = open_checkpoint(folder)
  lora = LoraConfig(rank=2, alpha=4.0, targets="attn/|mlp/|linear_1|qkv")
  trained = _trained(source.config, lora)
  parts = {path.split("/")[0] for path in trained}
  assert parts == {"vision", "projector", "decoder"}
  peft_export.write_adapter(tmp_path, lora, trained, source.config)
  back = peft_load.read_adapter(tmp_path, source.config)
  assert back.params.keys() == trained.keys()
  for path, value in trained.items():
    np.testing.assert_array_equal(back.params[path], value)

  load = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained
  model = load(folder, attn_implementation="eager", dtype=torch.float32)
  put_on = peft.PeftModel.from_pretrained(
    model, str(tmp_path)
  ).merge_and_unload()
  state = put_on.state_dict()
  merged = params_lib.merge_lora(
    source.params(np.float32) | trained, lora.scale
  )
  for entry in keys.entries(source.config):
    for name, layer in entry.names():
      # "linear_1" of a projector is "mlp.0" of theirs
      inside = name
      if entry.part == "projector":
        inside = keys.MERGER_NAMES.get(name, name)
      named = {
        "vision": "model.visual.",
        "projector": "model.visual.merger.",
        "decoder": "model.language_model.",
        "head": "lm_head.",
      }[entry.part] + inside
      ours = np.asarray(merged[entry.path])
      ours = ours if layer is None else ours[layer]
      theirs = state[named].numpy().transpose(entry.axes)
      np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=named)
