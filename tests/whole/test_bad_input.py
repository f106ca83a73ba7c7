"""Input that cannot work: one line names the file and what was expected.

The exit code is 2, and no half-written output is left. The llava-hf folder is
our own export, so that nothing here needs PyTorch.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import load_file, save_file

from povid_jax import convert, errors, score
from povid_jax.generate import __main__ as generate
from tests import small_world

pytestmark = pytest.mark.usefixtures("one_device")

ROOT = Path(__file__).parents[2]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """model/ and hf/, the same weights; photos/ with one that is none."""
  root = tmp_path_factory.mktemp("bad_input")
  model = small_world.model_folder(root)
  assert convert.main(["to-hf", str(model), str(root / "hf")]) == 0
  (root / "photos").mkdir()
  (root / "photos/fake.jpg").write_text("<html>404 Not Found</html>")
  turns = lambda answer: [
    {"from": "human", "value": "<image>\nA car?"},
    {"from": "gpt", "value": answer},
  ]
  pair = {
    "id": "p7",
    "image": "fake.jpg",
    "conversations": turns("Yes."),
    "rejected_conversations": turns("No."),
  }
  (root / "pairs.json").write_text(json.dumps([pair]))
  return root


def _no_weights(src: Path) -> None:
  for file in src.glob("*.safetensors*"):
    file.unlink()


def _missing_shard(src: Path) -> None:
  _sharded(src)
  (src / "model-00002-of-00002.safetensors").unlink()


def _sharded(src: Path) -> None:
  """The weights again, as two shards with an index."""
  tensors = {}
  for file in sorted(src.glob("*.safetensors")):
    tensors |= load_file(file)
    file.unlink()
  names = sorted(tensors)
  weight_map = {}
  for i, part in enumerate((names[::2], names[1::2]), 1):
    file = f"model-0000{i}-of-00002.safetensors"
    save_file({name: tensors[name] for name in part}, src / file)
    weight_map |= dict.fromkeys(part, file)
  (src / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def _truncated(src: Path) -> None:
  _sharded(src)
  file = src / "model-00002-of-00002.safetensors"
  file.write_bytes(file.read_bytes()[:-10])


def _cut_in_its_header(src: Path) -> None:
  _sharded(src)
  file = src / "model-00001-of-00002.safetensors"
  file.write_bytes(file.read_bytes()[:100])


def _wrong_shape(src: Path) -> None:
  _sharded(src)
  for file in src.glob("*.safetensors"):
    tensors = load_file(file)
    for name in tensors:
      if name == "language_model.model.norm.weight":
        tensors[name] = np.ones(31, np.float32)
    save_file(tensors, file)


def _no_end_token(src: Path) -> None:
  for file in src.glob("tokenizer*"):
    file.unlink()
  with open(src / "tokenizer.model", "wb") as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(["a b c d"]), model_writer=file, vocab_size=10,
      hard_vocab_limit=False, eos_id=-1, minloglevel=2,
    )  # fmt: skip


def _no_end_token_of_a_fast_one(src: Path) -> None:
  file = src / "tokenizer.json"
  file.write_text(file.read_text().replace("</s>", "<end>"))
  for other in ("tokenizer.model", "tokenizer_config.json"):
    (src / other).unlink(missing_ok=True)


# how the folder is spoilt; what the line names; what it says was expected
SPOILT: dict[Callable[[Path], None], tuple[str, str]] = {
  _no_weights: ("src: ", "want model.safetensors"),
  _missing_shard: ("model-00002-of-00002.safetensors: file not found", "index"),
  _truncated: ("model-00002-of-00002.safetensors: truncated", "want"),
  _cut_in_its_header: ("model-00001-of-00002.safetensors: ", "want"),
  _wrong_shape: ("norm.weight has shape (31,)", "want (32,)"),
  _no_end_token: (
    "tokenizer.model: no end-of-text token",
    "want one with </s>",
  ),
  _no_end_token_of_a_fast_one: ("tokenizer.json: ", "</s>"),
}


def _line(main: Callable[[], int | None], capsys: pytest.CaptureFixture) -> str:
  """What a command that exits with 2 says."""
  capsys.readouterr()
  with pytest.raises(SystemExit) as caught:
    errors.run(main)
  assert caught.value.code == 2
  return _only_line(capsys.readouterr().err)


def _only_line(err: str) -> str:
  assert err.count("\n") == 1, err
  assert err.startswith("error: ")
  return err.removeprefix("error: ")


@pytest.mark.parametrize("spoil", SPOILT)
def test_convert(world: Path, tmp_path: Path, spoil, capsys):
  src = tmp_path / "src"
  shutil.copytree(world / "hf", src)
  spoil(src)
  line = _line(
    lambda: convert.main(["from-torch", str(src), str(tmp_path / "dst")]),
    capsys,
  )
  named, wanted = SPOILT[spoil]
  assert named in line and wanted in line, line
  assert str(src) in line
  assert os.listdir(tmp_path) == ["src"]


def _edit(**changes: object) -> Callable[[Path], None]:
  def spoil(model: Path) -> None:
    described = json.loads((model / "model.json").read_text())
    described["decoder"] |= changes.pop("decoder", {})
    (model / "model.json").write_text(json.dumps(described | changes))

  return spoil


def _no_params(model: Path) -> None:
  shutil.rmtree(model / "params")


def _a_lost_file(model: Path) -> None:
  (model / "params" / "decoder.norm.scale" / "0").unlink()


def _a_cut_file(model: Path) -> None:
  file = model / "params" / "decoder.norm.scale" / "0"
  file.write_bytes(file.read_bytes()[:20])


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (_no_params, "weights of decoder/.* are damaged"),
    (_a_lost_file, "weights of decoder/norm/scale are damaged"),
    (_a_cut_file, "weights of decoder/norm/scale are damaged"),
    (_edit(decoder={"intermediate_size": 7}), r"has shape \(.*, want \("),
    (
      _edit(decoder={"num_heads": "four"}),
      "model.json: DecoderConfig.num_heads is 'four', want a whole number",
    ),
    (_edit(vision=3), "model.json: LlavaConfig.vision is 3, want an object"),
    (_edit(layout={"mode": "zoom"}), "model.json: layout.mode: want one of"),
  ],
)
def test_a_model_folder_that_is_not_whole(
  world: Path, tmp_path: Path, spoil, message, capsys
):
  model = tmp_path / "model"
  shutil.copytree(world / "model", model)
  spoil(model)
  line = _line(
    lambda: convert.main(["to-hf", str(model), str(tmp_path / "dst")]), capsys
  )
  assert re.search(message, line), line
  assert str(model) in line
  assert os.listdir(tmp_path) == ["model"]


def _generate(world: Path, out: Path) -> list[str]:
  return [
    f"--checkpoint={world / 'model'}",
    f"--images={world / 'photos'}",
    "--prompt=What?",
    f"--out={out}",
  ]


def _score(world: Path, out: Path) -> list[str]:
  return [
    f"--checkpoint={world / 'model'}",
    f"--pairs={world / 'pairs.json'}",
    f"--image-dir={world / 'photos'}",
    f"--out={out}",
  ]


@pytest.mark.parametrize(
  ("command", "flags", "who"),
  [
    (generate.main, _generate, "question 'fake.jpg'"),
    (score.main, _score, "pair 'p7'"),
  ],
)
def test_an_image_that_is_none(world, tmp_path, command, flags, who, capsys):
  out = tmp_path / "out.jsonl"
  line = _line(lambda: command(flags(world, out)), capsys)
  assert line.startswith(who)
  assert (
    str(world / "photos/fake.jpg") in line
    and "not a picture; want JPEG" in line
  )
  assert os.listdir(tmp_path) == []


def _command(name: str, arguments: Sequence[str]) -> str:
  """Runs it as a user does; returns its one line."""
  done = subprocess.run(
    [sys.executable, "-m", f"povid_jax.{name}", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stdout) == (2, "")
  return _only_line(done.stderr)


def test_the_real_convert(world: Path, tmp_path: Path):
  src = tmp_path / "src"
  shutil.copytree(world / "hf", src)
  _truncated(src)
  line = _command("convert", ["from-torch", str(src), str(tmp_path / "dst")])
  assert "model-00002-of-00002.safetensors: truncated" in line
  assert os.listdir(tmp_path) == ["src"]


@pytest.mark.parametrize("name", ["generate", "score"])
def test_the_real_command_with_an_image_that_is_none(
  world: Path, tmp_path: Path, name: str
):
  flags = {"generate": _generate, "score": _score}[name]
  line = _command(name, flags(world, tmp_path / "out.jsonl"))
  assert (
    str(world / "photos/fake.jpg") in line
    and "not a picture; want JPEG" in line
  )
  assert os.listdir(tmp_path) == []
