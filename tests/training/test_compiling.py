"""What a run says while it compiles."""

import time

import pytest

from povid_jax.training.compiling import Compiling


def test_it_says_how_long_it_took_before(tmp_path, capsys):
  with Compiling(tmp_path).saying("the step"):
    pass
  assert (
    "compiling the step (first time in this run directory"
    in capsys.readouterr().out
  )
  (tmp_path / "compiled.json").write_text("[98.4, 12.0]")
  again = Compiling(tmp_path)  # another process
  with again.saying("the step"):
    pass
  said = capsys.readouterr().out
  assert "(about 12 s, longest so far 98 s)" in said and "compiled in" in said
  with again.saying("another"):
    pass
  assert "(about 0 s, longest so far 98 s)" in capsys.readouterr().out


def test_long_compilation_says_that_it_goes_on(tmp_path, capsys):
  with Compiling(tmp_path, every=0.01).saying("the step"):
    time.sleep(0.1)
  said = capsys.readouterr().out
  assert said.index("still compiling") < said.index("compiled in")


def test_what_failed_is_not_kept_and_damage_is_no_matter(tmp_path, capsys):
  (tmp_path / "compiled.json").write_text("[1, nonsense")
  with pytest.raises(RuntimeError), Compiling(tmp_path).saying("the step"):
    raise RuntimeError
  assert "compiled in" not in capsys.readouterr().out
  with Compiling(tmp_path, enabled=False).saying("the step"):
    pass
  assert not capsys.readouterr().out
