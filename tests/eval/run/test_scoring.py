"""The command: scoring given answers, comparing two runs."""

import argparse
import json
import subprocess
import sys

import pytest

from povid_jax.errors import UserError
from povid_jax.eval import __main__ as command
from tests.eval.run import runs

NAMES = ("random", "popular", "adversarial")


def _given(world, path, wrong=()):
  """LLaVA's answers to all questions; those at some places are wrong."""
  asked = [
    json.loads(line)
    for line in (world / "pope/llava_pope_test.jsonl").read_text().splitlines()
  ]
  truth = [
    json.loads(line)["label"]
    for name in NAMES
    for line in (world / f"pope/coco_pope_{name}.json").read_text().splitlines()
  ]
  flip = {"yes": "No", "no": "Yes"}
  rows = [
    {
      "question_id": row["question_id"],
      "text": flip[label] if i in wrong else label.capitalize(),
    }
    for i, (row, label) in enumerate(zip(asked, truth, strict=True))
  ]
  runs.write_lines(path, rows)
  return path


def _score(world, folder, wrong=(), **flags):
  given = _given(world, folder / "given.jsonl", wrong)
  out = folder / "out"
  argv = runs.argv(world, out, answers=given, benchmarks="pope", **flags)
  assert command.main(argv) == 0
  return out


def _results(out):
  held = json.loads((out / "results.json").read_text())
  return {(r["benchmark"], r["metric"]): r for r in held["results"]}


def test_given_answers(world, tmp_path, capsys):
  out = _score(world, tmp_path, wrong=(0, 1, 2))
  row = _results(out)["pope", "random/accuracy"]
  assert (row["value"], row["n"]) == (13 / 16, 16)
  low, high = row["ci95"]
  assert low < 13 / 16 < high
  settings = json.loads((out / "results.json").read_text())["settings"]
  assert settings["checkpoint"] is None and settings["decoding"] is None
  assert set(settings["data_hash"]) == {"pope"}
  assert {"povid_jax", "python", "numpy"} <= set(settings["versions"])
  lines = (out / "verdicts.jsonl").read_text().splitlines()
  assert len(lines) == 48
  assert json.loads(lines[0])["correct"] is False
  assert "answers given" in capsys.readouterr().out
  table = (out / "results.md").read_text()
  assert (
    "| POPE POPE |" in table and "| pope | random/accuracy | 0.8125" in table
  )


def test_answers_of_a_run_score_the_same_again(world, tmp_path):
  first = _score(world, tmp_path / "a", wrong=(5,))
  again = tmp_path / "b"
  argv = runs.argv(world, again, answers=first, benchmarks="pope")
  assert command.main(argv) == 0
  assert _results(first) == _results(again)


def test_a_split_of_answers_to_all(world, tmp_path):
  out = _score(world, tmp_path, wrong=(0, 17), split="popular")
  found = _results(out)
  assert found["pope", "popular/accuracy"]["value"] == 15 / 16
  assert ("pope", "random/accuracy") not in found


def test_scoring_does_not_load_jax(world, tmp_path):
  given = _given(world, tmp_path / "given.jsonl")
  argv = runs.argv(world, tmp_path / "out", answers=given, benchmarks="pope")
  code = (
    "import sys; from povid_jax.eval.__main__ import main; main(sys.argv[1:]); "
    "sys.exit('jax' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code, *argv], cwd=runs.root())
  assert done.returncode == 0


def test_compare(world, tmp_path, capsys):
  a = _score(world, tmp_path / "a", wrong=range(0, 40))
  b = _score(world, tmp_path / "b", wrong=(1, 45))
  assert (
    command.main(["compare", str(a), str(b), f"--json={tmp_path}/c.json"]) == 0
  )
  said = capsys.readouterr().out
  assert "right in both 7, in neither 1, only in A 1, only in B 39" in said
  assert "McNemar p<0.0001, B higher, significant" in said
  assert "only in A: 46" in said
  (found,) = json.loads((tmp_path / "c.json").read_text())
  gap = found["metrics"]["random/accuracy"]
  assert gap["difference"] == pytest.approx(15 / 16) and gap["significant"]
  assert found["mcnemar"]["only_a"] == ["46"]


def test_a_run_compared_with_itself_does_not_differ(world, tmp_path, capsys):
  out = _score(world, tmp_path)
  assert command.main(["compare", str(out), str(out)]) == 0
  said = capsys.readouterr().out
  assert "p=1.0000, not significant" in said and " significant\n" in said
  assert ", significant" not in said


def test_runs_by_other_rules_or_data_are_not_compared(world, tmp_path):
  a = _score(world, tmp_path / "a")
  given = tmp_path / "a/given.jsonl"
  argv = runs.argv(world, tmp_path / "b", answers=given, benchmarks="pope")
  assert command.main([*argv, "--clean-rules"]) == 0
  with pytest.raises(UserError, match="different --clean-rules"):
    command.main(["compare", str(a), str(tmp_path / "b")])
  with pytest.raises(UserError, match="no results.json"):
    command.main(["compare", str(a), str(tmp_path)])


BAD = {
  "no such benchmark": ({"benchmarks": "pop"}, "there is no benchmark 'pop'"),
  "none": ({"benchmarks": ","}, "--benchmarks: want any of chair, pope"),
  "no data": ({"benchmarks": "mme"}, r"mme: not found in .*mme: \*.txt"),
  "no file": ({"answers": "none.jsonl"}, "none.jsonl: No such file"),
  "limit": ({"limit": "pope=x"}, "--limit=x: want a whole number"),
  "split": ({"split": "hard"}, "no split 'hard'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_flag_is_a_named_error(case, world, tmp_path):
  flags, message = BAD[case]
  given = _given(world, tmp_path / "given.jsonl")
  argv = runs.argv(
    world, tmp_path / "out", **{"answers": given, "benchmarks": "pope", **flags}
  )
  with pytest.raises(UserError, match=message):
    command.main(argv)


def test_errors_are_one_line_and_code_2(tmp_path):
  argv = ["--answers=none.jsonl", "--benchmarks=pope", f"--out={tmp_path}/o"]
  done = subprocess.run(
    [sys.executable, "-m", "povid_jax.eval", *argv, f"--data={tmp_path}"],
    cwd=runs.root(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert done.stderr.startswith("error: pope: not found in ")
  assert "https://github.com/RUCAIBox/POPE" in done.stderr
  assert len(done.stderr.splitlines()) == 1


def test_flags_for_one_benchmark_win():
  from povid_jax.eval import flags

  values = ["all", "pope=own", "chair="]
  assert flags.chosen(values, "pope") == "own"
  assert flags.chosen(values, "chair") == ""
  assert flags.chosen(values, "mme") == "all"
  assert flags.chosen(["a=b"], "mme") == "a=b"


SINGULAR = {
  "own table": ({}, "inflect"),
  "the original's table": ({"synonyms": "s.txt"}, "pattern"),
  "clean rules": ({"synonyms": "s.txt", "clean-rules": None}, "inflect"),
  "by name": ({"synonyms": "s.txt", "singular": "inflect"}, "inflect"),
}


@pytest.mark.parametrize("case", SINGULAR)
def test_captions_are_read_as_the_original_does_with_its_table(case):
  from povid_jax.eval import flags

  given, expected = SINGULAR[case]
  parser = argparse.ArgumentParser()
  flags.add(parser)
  argv = ["--answers=a", "--benchmarks=chair", "--out=o"]
  argv += [f"--{k}" if v is None else f"--{k}={v}" for k, v in given.items()]
  args = parser.parse_args(argv)
  (chair,) = flags.benchmarks("chair")
  assert flags.options(args, chair).extra["singular"] == expected
