"""Reading safetensors and torch files; what is said about broken ones."""

import builtins
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from povid_jax.errors import UserError
from povid_jax.weights import export, shards
from povid_jax.weights.safetensors_file import Tensor, read_safetensors

VALUES = {
  "a": np.arange(12, dtype=np.float32).reshape(3, 4),
  "b": np.arange(5, dtype=np.float16),
  "empty": np.zeros((0, 3), np.float32),
  "c": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
}


def _same(tensors: dict[str, Tensor], want: dict[str, np.ndarray]):
  assert set(tensors) == set(want)
  for key, value in want.items():
    got = tensors[key].read()
    assert got.dtype == value.dtype == tensors[key].dtype
    assert got.shape == value.shape == tensors[key].shape
    np.testing.assert_array_equal(
      got.astype(np.float32), value.astype(np.float32)
    )


def test_safetensors_both_ways(tmp_path: Path):
  plain = {k: v for k, v in VALUES.items() if k != "c"}
  save_file(plain, tmp_path / "theirs.safetensors")
  _same(read_safetensors(tmp_path / "theirs.safetensors"), plain)
  export.write_safetensors(tmp_path / "ours.safetensors", VALUES)
  _same(read_safetensors(tmp_path / "ours.safetensors"), VALUES)


def test_our_files_open_elsewhere(tmp_path: Path):
  torch = pytest.importorskip("torch")
  safetensors = pytest.importorskip("safetensors.torch")
  export.write_safetensors(tmp_path / "x.safetensors", VALUES)
  got = safetensors.load_file(tmp_path / "x.safetensors")
  assert got["c"].dtype == torch.bfloat16
  for key, value in VALUES.items():
    np.testing.assert_array_equal(
      got[key].float().numpy(), value.astype(np.float32)
    )


@pytest.mark.parametrize(
  ("new_format", "turned"), [(True, False), (True, True), (False, False)]
)
def test_torch_files(tmp_path: Path, new_format: bool, turned: bool):
  """Mapped where that can be, read whole where it cannot."""
  torch = pytest.importorskip("torch")
  values = {
    "a": torch.arange(12.0).reshape(3, 4),
    "half": torch.arange(5.0).half(),
    "brain": torch.arange(6.0).bfloat16(),
    "view": torch.arange(8.0)[2:6],
  }
  if turned:
    values["turned"] = torch.arange(6.0).reshape(2, 3).T
  file = tmp_path / "pytorch_model.bin"
  torch.save(
    values | {"step": 3}, file, _use_new_zipfile_serialization=new_format
  )
  want = {
    k: v.float().numpy().astype(str(v.dtype).removeprefix("torch."))
    for k, v in values.items()
    if k != "brain"
  }
  want["brain"] = np.arange(6).astype(ml_dtypes.bfloat16)
  _same(shards.read_folder(tmp_path), want)


@pytest.mark.parametrize("start", [b"", b"x\n", b"<!DOCTYPE html>"])
def test_what_torch_did_not_write(tmp_path: Path, start: bytes):
  (tmp_path / "pytorch_model.bin").write_bytes(start)
  with pytest.raises(UserError, match="not a file that torch.save wrote"):
    shards.read_folder(tmp_path)


def test_torch_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
  real = builtins.__import__

  def without_torch(name: str, *rest):
    if name == "torch":
      raise ImportError(name)
    return real(name, *rest)

  monkeypatch.setattr(builtins, "__import__", without_torch)
  with pytest.raises(UserError, match="pytorch_model.bin .*pip install torch"):
    shards.read_folder(tmp_path)


def _index(folder: Path, weight_map: dict[str, str]) -> None:
  text = json.dumps({"weight_map": weight_map})
  (folder / "model.safetensors.index.json").write_text(text)


def test_shards_by_their_index(tmp_path: Path):
  export.write_safetensors(tmp_path / "1.safetensors", {"a": VALUES["a"]})
  export.write_safetensors(tmp_path / "2.safetensors", {"b": VALUES["b"]})
  _index(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})
  _same(shards.read_folder(tmp_path), {k: VALUES[k] for k in "ab"})


def test_shards_whose_index_is_gone(tmp_path: Path):
  for number, key in enumerate("ab", 1):
    name = f"model-0000{number}-of-00002.safetensors"
    export.write_safetensors(tmp_path / name, {key: VALUES[key]})
  _same(shards.read_folder(tmp_path), {k: VALUES[k] for k in "ab"})


def _nothing(folder: Path) -> None:
  pass


def _no_shard(folder: Path) -> None:
  _index(folder, {"a": "gone.safetensors"})


def _elsewhere(folder: Path) -> None:
  _index(folder, {"a": "../x.safetensors"})


def _long_name(folder: Path) -> None:
  _index(folder, {"a": "x" * 100_000})


def _not_in_shard(folder: Path) -> None:
  export.write_safetensors(folder / "1.safetensors", {"a": VALUES["a"]})
  _index(folder, {"a": "1.safetensors", "z": "1.safetensors"})


def _short(folder: Path) -> None:
  file = folder / "model.safetensors"
  export.write_safetensors(file, VALUES)
  file.write_bytes(file.read_bytes()[:-3])


def _short_header(folder: Path) -> None:
  file = folder / "model.safetensors"
  export.write_safetensors(file, VALUES)
  file.write_bytes(file.read_bytes()[:20])


def _no_json(folder: Path) -> None:
  content = (4).to_bytes(8, "little") + b"{{{{"
  (folder / "model.safetensors").write_bytes(content)


def _odd_dtype(folder: Path) -> None:
  header = {"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}
  text = json.dumps(header).encode()
  content = len(text).to_bytes(8, "little") + text + b"0"
  (folder / "model.safetensors").write_bytes(content)


def _header(value: object) -> Callable[[Path], None]:
  def make(folder: Path) -> None:
    text = json.dumps(value).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(8)
    (folder / "model.safetensors").write_bytes(content)

  return make


def _names_no_files(folder: Path) -> None:
  (folder / "model.safetensors.index.json").write_text(
    '{"weight_map": {"a": 3}}'
  )


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (_header([1]), "its header is not an object"),
    (_header({"a": {"dtype": "F32", "shape": [1]}}), "a has .*data_offsets"),
    (
      _header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
      "broken header: a has",
    ),
    (_names_no_files, "want a `weight_map` from tensors to files"),
    (_nothing, "no weights in it; want model.safetensors"),
    (
      _no_shard,
      "gone.safetensors: file not found, but model.safetensors.index.json",
    ),
    (_elsewhere, "x.safetensors: file not found"),
    (_long_name, "xxx: file not found, but model.safetensors.index.json"),
    (_not_in_shard, "1.safetensors: no tensor z; model.safetensors.index.json"),
    (_short, r"model.safetensors: truncated: \d+ bytes, want \d+"),
    (_short_header, "model.safetensors: truncated, or not a safetensors"),
    (
      lambda folder: (folder / "model.safetensors").write_text("<!doctype" * 9),
      "bytes that begin with b'<!doctype<!",
    ),
    (_no_json, "model.safetensors: not a safetensors file"),
    (_odd_dtype, "model.safetensors: a has dtype F8_E4M3, want one of"),
  ],
)
def test_broken_folders(tmp_path: Path, make, message: str):
  make(tmp_path)
  with pytest.raises(UserError, match=message) as caught:
    shards.read_folder(tmp_path)
  assert "\n" not in str(caught.value)
  assert re.match(re.escape(str(tmp_path.parent)), str(caught.value))


def test_no_code_of_a_pickle_runs_and_no_warning_is_shown(tmp_path: Path):
  pytest.importorskip("torch")
  file, made = tmp_path / "pytorch_model.bin", tmp_path / "made"

  class Code:
    def __reduce__(self):
      return Path.touch, (made,)

  file.write_bytes(pickle.dumps({"a": Code()}, protocol=4))
  with pytest.raises(UserError, match="holds objects of Python besides tensor"):
    shards.read_folder(tmp_path)
  assert not made.exists()


def test_a_broken_torch_file(tmp_path: Path):
  torch = pytest.importorskip("torch")
  file = tmp_path / "pytorch_model.bin"
  torch.save({"a": torch.zeros(1000)}, file)
  file.write_bytes(file.read_bytes()[:900])
  with pytest.raises(UserError, match="pytorch_model.bin: torch cannot read"):
    shards.read_folder(tmp_path)
