"""Remote folders are refused by name before anything runs, in every command."""

import importlib

import pytest

from data_gen import __main__ as data_gen
from povid_jax import folders
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
  "pictures": (
    "generate.__main__",
    ["--checkpoint=m", "--questions=q", "--image-dir=hdfs://b/p", "--out=o"],
    "--image-dir",
  ),
  "config": ("train", ["--config=gs://b/c.py:7b", "--workdir=r"], "--config"),
  "score": (
    "score",
    ["--checkpoint=m", "--pairs=p.json", "--out=gs://b/s.jsonl"],
    "--out",
  ),
  "report": ("report.__main__", ["gs://b/run"], "--runs"),
}  # fmt: skip
OF_DATA_GEN = {
  "write": ["--pairs=p.json", "--out=gs://b/records"],
  "inject": ["--input=s3://b/p.json", "--injector=rules", "--out=o.jsonl"],
  "sample-noisy": ["--checkpoint=gs://b/m", "--input=i", "--out=o.jsonl"],
  "inspect": ["memory://b/records"],
  "export": ["p.json", "--format=trl", "--out=hdfs://b/t"],
  "scenes": ["--out=gs://b/world"],
}


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
  matching = f"{flag}.*(this machine|local folder)"
  with pytest.raises(UserError, match=matching) as caught:
    main(argv)
  assert "\n" not in str(caught.value)
  assert [p.name for p in tmp_path.iterdir()] == ["c.py"]


@pytest.mark.parametrize("name", OF_DATA_GEN)
def test_commands_that_make_data(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=r":/.*b.*this machine"):
    data_gen.main([name, *OF_DATA_GEN[name]])
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("path", "remote"),
  [
    ("gs://b/x", True), ("s3:/b/x", True), ("memory://x", True),
    ("hdfs+v2://x", True), ("/a/b", False), ("a/b:c", False), ("C:/x", False),
    ("", False), ("runs/a@12", False),
  ],
)  # fmt: skip
def test_what_is_remote(path, remote):
  assert folders.is_remote(path) is remote
