"""The table of commands: all there, each with help, none imported early."""

import subprocess
import sys

import pytest

from data_gen.__main__ import COMMANDS, main


def test_help_lists_every_command(capsys):
  assert main(["--help"]) == 0
  out = capsys.readouterr().out
  for name, text in COMMANDS.items():
    assert f"  {name} " in out and text in out


def test_no_command_and_a_wrong_one(capsys):
  assert main([]) == 2
  assert main(["rewrite"]) == 2
  assert "no command 'rewrite'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name, capsys):
  with pytest.raises(SystemExit) as stop:
    main([name, "--help"])
  assert stop.value.code == 0
  out = capsys.readouterr().out
  assert f"python -m data_gen {name}" in out and "--help" in out


def test_help_is_quick_to_import():
  code = (
    "import sys; from data_gen.__main__ import main; main(['--help']);"
    "heavy = {'jax', 'numpy', 'PIL', 'tokenizers', 'openai'};"
    "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert done.returncode == 0, done.stderr


def test_an_error_is_one_line(tmp_path):
  argv = [
    sys.executable,
    "-m",
    "data_gen",
    "inspect",
    str(tmp_path / "no.json"),
  ]
  done = subprocess.run(argv, capture_output=True, text=True)
  assert done.returncode == 2 and done.stdout == ""
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
