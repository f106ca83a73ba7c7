"""A PyTorch model in the layouts that are converted, and its logits."""

import contextlib
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

torch = pytest.importorskip("torch")
import transformers  # noqa: E402

from povid_jax.checkpoints import restore  # noqa: E402
from povid_jax.weights import load  # noqa: E402
from tests import small_tokenizer, torch_models  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  "ignore::DeprecationWarning", "ignore::FutureWarning"
)


@functools.cache
def torch_model() -> Any:
  return torch_models.llava("gqa", vocab_size=small_tokenizer.VOCAB)


def renamed(name: str, vision: str) -> str:
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


def original(folder: Path, tower_inside: bool, ending: str) -> list[str]:
  """Writes the original layout; returns the flags that convert needs."""
  model, config = torch_model(), torch_model().config
  inside = "model.vision_tower.vision_tower.vision_model."
  state = {renamed(k, inside): v for k, v in model.state_dict().items()}
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
  write_shards(folder, state, ending)
  return [f"--vision-tower={clip}"]


def write_shards(folder: Path, state: dict, ending: str) -> None:
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


def same_params(folder: Path) -> None:
  """A model folder holds exactly the PyTorch model's weights."""
  with contextlib.ExitStack() as stack:
    temporary = folder.parent / "reference"
    stack.callback(shutil.rmtree, temporary)
    torch_model().save_pretrained(temporary)
    want = load.open_checkpoint(temporary).params()
  got = restore.load(folder).params
  assert set(got) == set(want)
  for path, value in want.items():
    np.testing.assert_array_equal(got[path], value, err_msg=path)


def logits(model: Any, ids: list[int], pixels: Any) -> np.ndarray:
  with torch.no_grad():
    out = model(input_ids=torch.tensor([ids]), pixel_values=pixels)
  return out.logits.numpy()


def open_hf(folder: Path) -> Any:
  model, info = transformers.LlavaForConditionalGeneration.from_pretrained(
    folder, output_loading_info=True, dtype=torch.float32
  )
  assert not any(info.values()), info
  return model.eval()


def same_logits(ours: Any, theirs: Any, image_token: int) -> None:
  """Two torch models agree, each with its own id of <image>."""
  tokens = 16  # 28 pixels in patches of 7
  pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
  ids = lambda image: [1, *[image] * tokens, 5, 6, 7, 8, 9]
  rows = small_tokenizer.VOCAB
  got = logits(ours, ids(ours.config.image_token_index), pixels)[..., :rows]
  want = logits(theirs, ids(image_token), pixels)[..., :rows]
  assert np.abs(got - want).max() <= 2e-4
  assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)
