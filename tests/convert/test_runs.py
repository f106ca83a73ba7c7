"""Runs and adapters go out, and adapters come in."""

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from povid_jax import convert  # noqa: E402
from povid_jax.checkpoints import restore  # noqa: E402
from povid_jax.errors import UserError  # noqa: E402
from povid_jax.models import params as params_lib  # noqa: E402
from povid_jax.models.vit import normalise  # noqa: E402
from povid_jax.weights import load  # noqa: E402
from tests import small_tokenizer, small_world  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  "ignore::DeprecationWarning", "ignore::FutureWarning"
)
from tests.convert.torch_layouts import logits, open_hf, torch_model  # noqa: E402


@pytest.fixture
def base(tmp_path: Path) -> Path:
  src = small_tokenizer.write(tmp_path / "src")
  torch_model().save_pretrained(src)
  convert.main(
    ["from-torch", str(src), str(tmp_path / "base"), "--dtype=float32"]
  )
  return tmp_path / "base"


def our_logits(spec: Path | str, merged: bool) -> np.ndarray:
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


def torch_logits(model: Any, image_token: int) -> np.ndarray:
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (1, 28, 28, 3), np.uint8)
  pixels = np.asarray(normalise(images)).transpose(0, 3, 1, 2).copy()
  ids = [1, *[image_token] * 16, 5, 6, 7, 8, 9]
  return logits(model, ids, torch.from_numpy(pixels))


def close(got: np.ndarray, want: np.ndarray) -> None:
  rows = small_tokenizer.VOCAB
  got, want = got[..., :rows], want[..., :rows]
  assert np.abs(got - want).max() <= 2e-4
  assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


@pytest.mark.parametrize(
  ("projector", "lora"),
  [
    (False, {}),
    (True, {}),
    (False, {"targets": "layers/|projector/"}),
    (True, {"targets": "^(vision|projector)/.*"}),
  ],
)
def test_a_run_as_merged_weights_and_as_an_adapter(
  tmp_path: Path, base: Path, projector: bool, lora: dict[str, str]
):
  peft = pytest.importorskip("peft")
  run = small_world.run_folder(tmp_path, base, projector, **lora)
  want = our_logits(run, merged=False)
  assert np.abs(want - our_logits(base, merged=False)).max() > 0.1
  close(our_logits(run, merged=True), want)
  for name, *flags in (("merged",), ("plain", "--base-only")):
    convert.main(["to-hf", str(run), str(tmp_path / name), *flags])
  convert.main(["to-peft", str(run), str(tmp_path / "adapter")])
  merged, plain = (open_hf(tmp_path / n) for n in ("merged", "plain"))
  image = merged.config.image_token_index
  close(torch_logits(merged, image), want)
  close(torch_logits(plain, image), our_logits(base, merged=False))
  with warnings.catch_warnings():
    warnings.filterwarnings("error", message=".*(adapter keys|missing|unexp).*")
    wrapped = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
  close(torch_logits(wrapped.eval(), image), want)


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
