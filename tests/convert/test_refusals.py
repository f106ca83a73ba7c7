"""Sources that are refused, and destinations."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")

from povid_jax import convert  # noqa: E402
from povid_jax.errors import UserError  # noqa: E402
from povid_jax.weights import load  # noqa: E402
from tests import small_tokenizer  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  "ignore::DeprecationWarning", "ignore::FutureWarning"
)
from tests.convert.torch_layouts import torch_model  # noqa: E402


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


def _ends_at(value: object) -> Callable[[Path], object]:
  """generation_config.json with these ends of an answer."""
  text = json.dumps({"eos_token_id": value})
  return lambda src: (src / "generation_config.json").write_text(text)


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (_no_weights, "src: want model.safetensors .* but no weights"),
    (_missing_shard, "model-00001-of-00002.safetensors: file not found, but "),
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
    (_ends_at([2, 99999]), "eos_token_id holds 99999, but .* has 400 rows"),
    (_ends_at([[2]]), r"eos_token_id is \[\[2\]\], want an id or a list"),
    (_ends_at("</s>"), "eos_token_id is '</s>', want an id or a list"),
  ],
)
def test_bad_sources(tmp_path: Path, spoil: Callable, message: str):
  src = small_tokenizer.write(tmp_path / "src")
  torch_model().save_pretrained(src)
  spoil(src)
  with pytest.raises(UserError, match=message) as caught:
    convert.main(["from-torch", str(src), str(tmp_path / "dst")])
  assert "\n" not in str(caught.value)
  assert [p.name for p in tmp_path.iterdir()] == ["src"]


def test_a_crash_half_way_leaves_nothing(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  src = small_tokenizer.write(tmp_path / "src")
  torch_model().save_pretrained(src)
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
  torch_model().save_pretrained(src)
  (tmp_path / "dst").mkdir()
  (tmp_path / "dst" / "mine").write_text("x")
  with pytest.raises(UserError, match="dst exists already"):
    convert.main(["from-torch", str(src), str(tmp_path / "dst")])
  assert (tmp_path / "dst" / "mine").read_text() == "x"
