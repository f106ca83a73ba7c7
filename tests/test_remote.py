"""Remote folders are refused by name before anything runs, in every command."""

import importlib

import pytest

from povid_jax import files
from povid_jax.errors import UserError

COMMANDS = {
  "train": ("train", ["--config=c.py", "--workdir=gs://b/run"], "--workdir"),
  "eval": (
    "eval.__main__",
    ["--checkpoint=s3://b/run", "--benchmarks=pope", "--out=o"],
    "--checkpoint",
  ),
  "compare": ("eval.__main__", ["compare", "a", "memory://b"], "--b"),
  "build-pope": (
    "eval.__main__",
    ["build-pope", "--instances", "a.json", "gs://b/c.json", "--out=o"],
    "--instances",
  ),
  "plan": (
    "plan.__main__",
    ["--config=configs/povid_stage2.py:7b", "--topology=gpu:8xh100",
     "--json=gs://b/plan.json"],
    "--json",
  ),
  "convert": ("convert", ["to-hf", "gs://b/run", "out"], "gs:/"),
  "generate": (
    "generate.__main__",
    ["--checkpoint=m", "--images=p", "--prompt=hi", "--out=gs://b/g.jsonl"],
    "--out",
  ),
  "score": (
    "score",
    ["--checkpoint=m", "--pairs=p.json", "--out=gs://b/s.jsonl"],
    "--out",
  ),
  "report": ("report.__main__", ["gs://b/run"], "--runs"),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_names_the_path(name, tmp_path, monkeypatch):
  root = str(tmp_path)
  module, argv, flag = COMMANDS[name]
  made = tmp_path / "c.py"
  made.write_text(
    "from ml_collections import ConfigDict\n"
    "def get_config():\n"
    "  return ConfigDict({'init': 'm', 'data': {'train': 'd'}})\n"
  )
  argv = [a.replace("--config=c.py", f"--config={made}") for a in argv]
  main = importlib.import_module(f"povid_jax.{module}").main
  if name != "plan":
    monkeypatch.chdir(root)
  with pytest.raises(UserError, match=f"{flag}.*this machine") as caught:
    main(argv)
  assert "\n" not in str(caught.value)
  assert [p.name for p in tmp_path.iterdir()] == ["c.py"]


@pytest.mark.parametrize(
  ("path", "remote"),
  [
    ("gs://b/x", True), ("s3:/b/x", True), ("memory://x", True),
    ("hdfs+v2://x", True), ("/a/b", False), ("a/b:c", False), ("C:/x", False),
    ("", False), ("runs/a@12", False),
  ],
)  # fmt: skip
def test_what_is_remote(path, remote):
  assert files.is_remote(path) is remote
