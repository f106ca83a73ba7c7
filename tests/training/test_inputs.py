"""What a config names wrongly: the message has the command that is needed."""

import json

import pytest

from povid_jax.errors import UserError
from povid_jax.training import inputs, workdir
from tests import small_world


def _folder(path, *names):
  path.mkdir(parents=True)
  for name in names:
    (path / name).write_text("{}")
  return path


def _check(tmp_path, init="model", data="data", **fields):
  made = small_world.config(init, data, fields)
  inputs.check(made, tmp_path / "run")


def test_kinds_of_folders_that_are_something_else(tmp_path):
  hf = _folder(tmp_path / "hf", "model.safetensors")
  (hf / "config.json").write_text('{"model_type": "llava"}')
  model = _folder(tmp_path / "model", "model.json")
  beside = ("journal.jsonl", "own.journal.jsonl", "own.rejected.jsonl")
  pairs = _folder(tmp_path / "pairs", *beside, "own.summary.json", "own.jsonl")
  _folder(tmp_path / "records", "dataset_info.json")
  for given, wanted in (
    ({"init": hf}, f"convert from-torch {hf} MODEL"),
    ({"init": "liuhaotian/llava-v1.5-7b"}, "hf download liuhaotian/llava"),
    ({"data": pairs / "own.jsonl"}, "data_gen write --pairs .*own.jsonl"),
    ({"data": pairs}, "data_gen write --pairs .*pairs/own.jsonl"),
    ({"data": tmp_path}, rf"give --config.data.train={tmp_path}/records$"),
    ({"reference_cache": str(pairs)}, "other files than cached log-probs"),
    ({"log.wandb": "p"}, "needs the package wandb"),
  ):
    with pytest.raises(UserError, match=wanted):
      _check(tmp_path, **{"init": model, **given})
  _check(tmp_path, model, "data", reference_cache=str(tmp_path / "new"))


def _run(path, last, **fields):
  (path / "checkpoints" / str(last)).mkdir(parents=True)
  held = {"init": "base", "steps": 0, "eval": {"patience": 0}, **fields}
  (path / "config.json").write_text(json.dumps(held))
  return path


def test_a_run_that_has_not_ended_is_no_start(tmp_path):
  run = _run(tmp_path / "a", 69, total_steps=2000)
  with pytest.raises(UserError, match=rf"69 of 2000.*init={run}@69"):
    _check(tmp_path, run)
  _check(tmp_path, f"{run}@69")  # said by name
  workdir.note_end(run, 69, 2000)  # by patience
  _check(tmp_path, run)
  _check(tmp_path, _run(tmp_path / "b", 2000, total_steps=2000))
  older = _run(tmp_path / "c", 30, steps=40)  # before total_steps was kept
  with pytest.raises(UserError, match="30 of 40"):
    _check(tmp_path, older)
  _check(tmp_path, _run(tmp_path / "d", 30, steps=40, eval={"patience": 2}))
