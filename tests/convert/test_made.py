"""A finished command that is given again says so."""

from pathlib import Path

import pytest

from povid_jax import convert
from povid_jax.errors import UserError
from tests import small_world


def test_the_same_command_again(tmp_path: Path, capsys: pytest.CaptureFixture):
  model = small_world.model_folder(tmp_path)
  command = ["to-hf", str(model), str(tmp_path / "hf")]
  assert convert.main(command) == 0
  files = {p: p.stat().st_mtime_ns for p in (tmp_path / "hf").iterdir()}
  capsys.readouterr()
  assert convert.main(command) == 0
  assert (
    "hf: exists already, written by this command" in capsys.readouterr().err
  )
  assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "hf").iterdir()}
  # another flag, another source, and an output of nobody
  back = ["from-torch", str(tmp_path / "hf"), str(tmp_path / "back")]
  assert convert.main([*back, "--dtype=float32"]) == 0
  with pytest.raises(UserError, match="back exists already"):
    convert.main([*back, "--dtype=bfloat16"])
  (model / "model.json").touch()
  with pytest.raises(UserError, match="hf exists already"):
    convert.main(command)
