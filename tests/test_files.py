"""Files that appear whole: what killed processes left is removed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from povid_jax import errors, files
from povid_jax.errors import UserError

_WRITER = """
import sys, time
from povid_jax import files
kind, path = sys.argv[1:]
with getattr(files, kind)(path):
  print("open", flush=True)
  time.sleep(60)
"""


def _writer(kind: str, path: Path) -> subprocess.Popen:
  process = subprocess.Popen(
    [sys.executable, "-c", _WRITER, kind, str(path)], stdout=subprocess.PIPE
  )
  assert process.stdout is not None
  with process.stdout as said:
    assert said.readline() == b"open\n"
  return process


@pytest.mark.parametrize("kind", ["atomic_dir", "atomic_write"])
def test_what_a_killed_process_left_is_removed(tmp_path: Path, kind: str):
  path = tmp_path / "out[1]"
  dead, alive = _writer(kind, path), _writer(kind, path)
  other = tmp_path / ".another.tmp-12345678"
  other.mkdir()
  assert len(list(tmp_path.glob(".out*"))) == 2
  os.kill(dead.pid, signal.SIGKILL)
  dead.wait()
  with getattr(files, kind)(path):
    # the living one's stays, and ours
    assert len(list(tmp_path.glob(".out*"))) == 2
  alive.terminate()
  alive.wait()
  assert path.exists() and other.exists()


def test_json_of_any_kind(tmp_path: Path):
  file = tmp_path / "x.json"
  file.write_bytes(b"\xef\xbb\xbf{}")
  assert files.read_json(file, "") == {}
  for bad in (b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff{"):
    file.write_bytes(bad)
    with pytest.raises(UserError, match="x.json: not "):
      files.read_json(file, "")


def test_errors_are_one_clean_line(capsys: pytest.CaptureFixture):
  def main() -> int:
    raise UserError("tensor 'a\n\x1b[31mb\u202ec\u00e9'")

  with pytest.raises(SystemExit) as caught:
    errors.run(main)
  assert caught.value.code == 2
  said = capsys.readouterr().err
  assert said == "error: tensor 'a\\n\\x1b[31mb\\u202ecé'\n"


def test_what_the_system_refuses_is_one_line(
  tmp_path: Path, capsys: pytest.CaptureFixture
):
  with pytest.raises(SystemExit) as caught:
    errors.run(lambda: open(tmp_path / "no" / "such").fileno())
  assert caught.value.code == 2
  said = capsys.readouterr().err
  assert said == f"error: {tmp_path}/no/such: No such file or directory\n"
