"""Reading run folders: what is found, what is missing, what is broken."""

import json
from pathlib import Path

import pytest

from povid_jax.errors import UserError
from povid_jax.report.load import load
from tests.report.conftest import write_evaluation


def test_everything_is_found(run_folder):
  run = load([run_folder])
  assert [stage.name for stage in run.stages] == ["sft", "stage1", "stage2"]
  assert run.stages[2].config["lr"] == 0.25
  assert [(e.stage, e.split) for e in run.evaluations] == [
    ("sft", "balanced"),
    ("stage1", "balanced"),
    ("stage2", "balanced"),
  ]
  first = run.evaluations[0]
  assert first.scores["chair/CHAIRs"].value == 0.5
  assert first.answers["7"]["text"].startswith("A cat")  # not POPE's "Yes"
  assert first.verdicts["7"]["hallucinated"] == ["dog"]
  assert [sample.id for sample in run.pairs] == ["a"]
  assert run.commands[0].seconds == 61
  assert run.pictures.of_row("7", {}).name == "7.png"
  assert run.pictures.find("test/8.png").name == "8.png"
  assert run.pictures.find("test/9.png") is None


def test_a_single_training_run(run_folder):
  run = load([run_folder / "stage2"])
  assert [stage.name for stage in run.stages] == ["stage2"]
  assert run.evaluations == [] and run.pairs == []


def test_a_run_named_from_the_folder_that_it_lies_in(run_folder, monkeypatch):
  monkeypatch.chdir(run_folder)
  (run_folder / "stage2/config.json").write_text('{"init": "base"}')
  assert load([Path("stage2")]).stages[0].name == "stage2"


def test_scores_of_a_run_and_of_its_init_are_found_in_results(run_folder):
  """As the README's commands leave them: results/base, results/stage2."""
  run = run_folder / "stage2"
  init = run_folder / "weights" / "llava"
  (run / "config.json").write_text(json.dumps({"init": f"{init}@7"}))
  asked = {"base": init, "stage2": f"{run}@25", "other": run_folder / "stage1"}
  for name, checkpoint in asked.items():
    home = run_folder / "results" / name
    write_evaluation(home, "stage2")
    content = json.loads((home / "results.json").read_text())
    content["settings"]["checkpoint"] = str(checkpoint)
    (home / "results.json").write_text(json.dumps(content))
  found = load([run]).evaluations
  assert [(e.stage, e.split) for e in found] == [("base", ""), ("stage2", "")]
  named = load([run], scores=[run_folder / "results" / "other"]).evaluations
  assert [e.stage for e in named] == ["base", "stage2", "other"]
  with pytest.raises(UserError, match="no results.json; give --scores"):
    load([run], scores=[run_folder])


def test_only_a_summary(tmp_path):
  (tmp_path / "summary.json").write_text(
    '{"stages": {"stage2": {"balanced": {"CHAIRs": 0.2, "pope_f1": 0.8}},'
    ' "sft": {"balanced": {"CHAIRs": 0.4, "note": "text"}}}}'
  )
  run = load([tmp_path])
  assert [e.stage for e in run.evaluations] == ["sft", "stage2"]
  assert run.evaluations[1].scores["pope/f1"].value == 0.8
  assert run.evaluations[0].scores["chair/CHAIRs"].low is None


def test_a_killed_writer_leaves_half_a_line(run_folder):
  path = run_folder / "eval" / "sft" / "balanced" / "answers.jsonl"
  with open(path, "a") as file:
    file.write('{"question_id": 9, "te')
  assert set(load([run_folder]).evaluations[0].answers) == {"7", "8"}


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("summary.json", "{", "summary.json: not JSON"),
    ("sft/metrics/train.jsonl", "x\n{}\n", "train.jsonl, line 1"),
    ("eval/sft/balanced/verdicts.jsonl", "x\n{}\n", "verdicts.jsonl, line 1"),
    ("eval/sft/balanced/verdicts.jsonl", "[]\n{}\n", "not a JSON object"),
    (
      "eval/sft/balanced/results.json",
      '{"results": [{"metric": "f1"}]}',
      "want rows with benchmark, metric and value",
    ),
  ],
)
def test_broken_files_are_named(run_folder, name, text, message):
  (run_folder / name).write_text(text)
  with pytest.raises(UserError) as error:
    load([run_folder])
  assert message in str(error.value)


def test_nothing_there(tmp_path):
  with pytest.raises(UserError, match="no folder"):
    load([tmp_path / "absent"])
  with pytest.raises(UserError, match="nothing to report"):
    load([tmp_path])


def test_pairs_that_are_not_there(run_folder):
  with pytest.raises(UserError, match="with --pairs"):
    load([run_folder], pairs=run_folder / "none.json")
