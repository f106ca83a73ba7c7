"""Every command on a small model of each family."""

import json

import pytest

from benchmarks import smoke


@pytest.mark.slow
@pytest.mark.parametrize("family", smoke.FAMILIES)
def test_every_command_works(family, tmp_path, monkeypatch):
  monkeypatch.delenv("XLA_FLAGS", raising=False)  # one device
  out = tmp_path / "out"
  assert smoke.main([f"--family={family}", f"--out={out}"]) == 0
  rows = (out / "stage2/metrics/train.jsonl").read_text().splitlines()
  assert [json.loads(row)["step"] for row in rows] == [0, 1, 2]
  written = json.loads((out / "tuned/config.json").read_text())
  read = json.loads((out / "hf/config.json").read_text())
  assert written["architectures"] == read["architectures"]
  pairs = (out / "noisy.jsonl").read_text().splitlines()
  assert all(json.loads(pair)["rejected_conversations"] for pair in pairs)
