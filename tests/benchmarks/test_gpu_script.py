"""The script for a GPU, dry: every part runs and leaves its numbers."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_gpu_script_on_a_cpu(tmp_path):
  done = subprocess.run(
    ["bash", str(ROOT / "benchmarks/gpu.sh"), str(tmp_path)],
    cwd=ROOT,
    env={**os.environ, "DRY": "1", "PYTHON": sys.executable},
    capture_output=True,
    text=True,
  )
  said = done.stdout
  assert "stage2: done" in said and "decode: done" in said, said
  rows = json.loads((tmp_path / "stage2.json").read_text())["rows"]
  assert rows and all(row["pairs_per_second"] > 0 for row in rows)
  assert "tokens/s" in (tmp_path / "decode.txt").read_text()
  if importlib.util.find_spec("trl") is None:
    assert "peers: exit code 1" in said  # and the others ran all the same
  else:
    assert "peers: done" in said, said
