"""`data_gen inject` as a user runs it: rules, resume, bad input."""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_gen import __main__ as cli
from data_gen import inject
from povid_jax.data.samples import read_samples
from povid_jax.errors import UserError

TEXT = (
  "A brown dog lies on the grass next to a red bench. Two men stand behind "
  "the bench. Picture {}."
)


def row(i: int, answer: str = TEXT, image: str | None = None) -> dict:
  human = "Describe this image in detail."
  turns = [("human", human), ("gpt", answer.format(i))]
  out = {
    "id": f"s{i}",
    "conversations": [{"from": f, "value": v} for f, v in turns],
  }
  return out | ({"image": image} if image else {})


def write(path, rows):
  path.write_text(json.dumps(rows))
  return path


def lines(path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def run(*args: object) -> int:
  return cli.main(["inject", *map(str, args)])


@pytest.fixture
def source(tmp_path):
  return write(tmp_path / "in.json", [row(i) for i in range(30)])


@pytest.fixture
def out(tmp_path):
  return tmp_path / "out" / "pairs.jsonl"


def test_pairs_in_the_released_format(source, out, capsys):
  assert run("--input", source, "--out", out) == 0
  pairs = read_samples(out)
  assert [p.id for p in pairs] == [f"s{i}" for i in range(30)]
  for pair in pairs:
    assert pair.rejected[0] == pair.turns[0]
    assert pair.rejected[1] != pair.turns[1]
    assert pair.extra["injector"] == "rules/4"
    assert pair.extra["category"] == "captioning"
    assert all(e["span"] in pair.rejected[1] for e in pair.extra["edits"])
  summary = json.loads((out.parent / "summary.json").read_text())
  assert summary["accepted"] == summary["items"] == 30
  assert "accepted" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_bytes(source, tmp_path):
  outs = [tmp_path / name / "pairs.jsonl" for name in "abc"]
  for path, seed in zip(outs, (0, 0, 1), strict=True):
    run("--input", source, "--out", path, "--seed", seed)
  first, second, third = (path.read_bytes() for path in outs)
  assert first == second != third


def test_limit_then_all_equals_all(source, tmp_path):
  one, two = tmp_path / "a" / "pairs.jsonl", tmp_path / "b" / "pairs.jsonl"
  run("--input", source, "--out", one, "--limit", 7)
  assert len(read_samples(one)) == 7
  run("--input", source, "--out", one)
  run("--input", source, "--out", two)
  assert one.read_bytes() == two.read_bytes()
  summary = json.loads((one.parent / "summary.json").read_text())
  assert summary["done_before"] == 7


def test_several_pairs_of_one_sample(source, out):
  run("--input", source, "--out", out, "--pairs-per-sample", 2, "--limit", 5)
  pairs = read_samples(out)
  assert [p.id for p in pairs[:2]] == ["s0", "s0-v1"] and len(pairs) == 10
  assert (
    sum(
      a.rejected != b.rejected
      for a, b in zip(pairs[::2], pairs[1::2], strict=True)
    )
    > 2
  )


def test_conversations_keep_their_questions(tmp_path, out):
  turns = ["<image>\nIs there a dog?", "Yes.", "How many cups?", "Two.",
           "Describe it.", TEXT.format(1)]  # fmt: skip
  value = [
    {"from": ("human", "gpt")[i % 2], "value": turn}
    for i, turn in enumerate(turns)
  ]
  source = write(tmp_path / "in.json", [{"id": 1, "conversations": value}])
  run("--input", source, "--out", out)
  (pair,) = read_samples(out)
  assert pair.rejected[::2] == pair.turns[::2]
  assert pair.rejected[1] == "No." and pair.rejected[3] in (
    "Three.",
    "Four.",
    "One.",
  )
  assert {edit["turn"] for edit in pair.extra["edits"]} == {0, 1, 2}


def test_what_cannot_be_changed_is_told(tmp_path, out):
  rows = [row(0), row(1, "Nobody knows."), row(2)]
  source = write(tmp_path / "in.json", rows)
  assert run("--input", source, "--out", out) == 0
  assert [p.id for p in read_samples(out)] == ["s0", "s2"]
  (lost,) = lines(out.parent / "rejected.jsonl")
  assert lost["id"] == "s1" and lost["reason"] == "no_edit"


def test_annotated_objects_are_not_invented(tmp_path, out):
  names = ["cat", "rabbit", "hamster", "parrot"]
  coco = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "categories": [{"id": i, "name": n} for i, n in enumerate(names)],
    "annotations": [
      {"image_id": 1, "category_id": i} for i in range(len(names))
    ],
  }
  annotations = write(tmp_path / "instances.json", coco)
  rows = [row(i, "A dog is on the grass. {}", "a.jpg") for i in range(20)]
  source = write(tmp_path / "in.json", rows)
  run("--input", source, "--out", out, "--annotations", annotations,
      "--edits", "replace=1", "--on-bad-sample=skip")  # fmt: skip
  assert not out.exists() or not read_samples(out)


def test_other_settings_want_another_place(source, out):
  run("--input", source, "--out", out)
  with pytest.raises(UserError, match="seed was 0, now 5"):
    run("--input", source, "--out", out, "--seed", 5)
  assert run("--input", source, "--out", out, "--seed", 5, "--no-resume") == 0
  assert (out.parent / "journal.jsonl.old-1").exists()


def test_dry_run_writes_nothing(source, out, capsys):
  assert run("--input", source, "--out", out, "--dry-run") == 0
  text = capsys.readouterr().out
  assert "30 items" in text and text.count("wrong:") == 3
  assert not out.parent.exists()


@pytest.mark.parametrize(
  ("args", "words"),
  [
    (["--edits", "foo=1"], "--edits"),
    (["--categories", "nope"], "no sample has a category"),
    (["--injector", "openai"], "--model"),
    (["--annotations", "missing.json"], "missing.json"),
  ],
)
def test_bad_options_say_what_to_do(source, out, args, words):
  with pytest.raises(UserError, match=words):
    run("--input", source, "--out", out, *args)


def test_an_injector_that_looks_needs_the_pictures(tmp_path, out):
  source = write(tmp_path / "in.json", [row(0) | {"image": "0.jpg"}])
  with pytest.raises(UserError, match="'0.jpg': --image-dir is missing"):
    run("--input", source, "--out", out, "--injector", "openai", "--model", "m")


def test_a_bad_name_and_a_missing_file(source, tmp_path):
  with pytest.raises(UserError, match="jsonl"):
    run("--input", source, "--out", tmp_path / "pairs.txt")
  with pytest.raises(UserError, match=r"nowhere\.json"):
    run("--input", tmp_path / "nowhere.json", "--out", tmp_path / "p.jsonl")


@pytest.mark.parametrize(
  "name", ["../../etc/passwd", "/etc/passwd", "missing.jpg", "link.jpg", ""]
)
def test_pictures_stay_in_their_folder(tmp_path, out, name):
  folder = tmp_path / "images"
  folder.mkdir()
  (folder / "link.jpg").symlink_to("/etc/passwd")
  rows = [row(0), row(1) | {"image": name}]
  source = write(tmp_path / "in.json", rows)
  args = ["--input", source, "--out", out, "--image-dir", folder]
  with pytest.raises(UserError, match="s1"):
    run(*args)
  assert run(*args, "--on-bad-sample", "skip") == 0
  assert [p.id for p in read_samples(out)] == ["s0"]
  (skipped,) = lines(out.parent / "skipped.jsonl")
  assert "s1" in skipped["reason"]


def test_kill_and_continue(tmp_path, out):
  source = write(tmp_path / "in.json", [row(i) for i in range(500)])
  command = [sys.executable, "-m", "data_gen", "inject", "--input",
             str(source), "--out", str(out)]  # fmt: skip
  journal = out.parent / "journal.jsonl"
  for kill in range(2):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    size = journal.stat().st_size if journal.exists() else 0
    while not journal.exists() or journal.stat().st_size < size + 20_000:
      assert process.poll() is None, "ended before the kill"
      time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists(), f"kill {kill}: a file in parts"
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
  assert [p.id for p in read_samples(out)] == [f"s{i}" for i in range(500)]
  whole = tmp_path / "whole" / "pairs.jsonl"
  run("--input", source, "--out", whole)
  assert whole.read_bytes() == out.read_bytes()


JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.text(max_size=30),
  lambda inner: (
    st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8), inner, max_size=4)
  ),
  max_leaves=8,
)
TURN = st.fixed_dictionaries(
  {"from": st.sampled_from(["human", "gpt"]), "value": st.text(max_size=80)}
)
SAMPLE = st.fixed_dictionaries(
  {
    "id": st.text(max_size=8) | st.integers(),
    "conversations": st.lists(TURN | JSON, max_size=4)
    | st.text(min_size=1, max_size=60).map(
      lambda t: [
        {"from": "human", "value": "Q"},
        {"from": "gpt", "value": f"A dog. {t}"},
      ]
    ),
  },
  optional={
    "image": st.text(max_size=12) | JSON | st.just("../../etc/passwd"),
    "rejected_conversations": JSON,
    "category": JSON,
    "edits": JSON,
  },
)


@settings(
  max_examples=60,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=st.lists(SAMPLE | JSON, max_size=4))
def test_any_json_is_worked_on_or_named(tmp_path, rows):
  folder = tmp_path / os.urandom(6).hex()
  (folder / "images").mkdir(parents=True)
  source = write(folder / "in.json", rows)
  args = ["--input", source, "--out", folder / "pairs.jsonl",
          "--image-dir", folder / "images"]  # fmt: skip
  try:
    run(*args, "--on-bad-sample", "skip")
  except UserError:
    return  # one line for the user; anything else fails the test
  accounted = 0
  for name in ("pairs.jsonl", "rejected.jsonl", "skipped.jsonl"):
    path = folder / name
    accounted += len(path.read_bytes().splitlines()) if path.exists() else 0
  assert accounted == len(rows), "a sample is lost"


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_named(tmp_path_factory, data):
  folder = tmp_path_factory.mktemp("bytes")
  for name in ("in.json", "in.jsonl"):
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match="in.json"):
      run("--input", folder / name, "--out", folder / "pairs.jsonl")


def test_help_tells_a_stranger_what_to_do(capsys):
  with pytest.raises(SystemExit):
    run("--help")
  text = capsys.readouterr().out
  for word in ("--input", "OPENAI_API_KEY", "journal", "--dry-run", "rules"):
    assert word in text
  parser = argparse.ArgumentParser()
  inject.add_arguments(parser)
  assert all(action.help for action in parser._actions)


def test_outputs_that_would_cost_something(source, tmp_path):
  before = source.read_text()
  with pytest.raises(UserError, match="is the input"):
    run("--input", source, "--out", source)
  assert source.read_text() == before
  (tmp_path / "d.jsonl").mkdir()
  with pytest.raises(UserError, match="a folder has that name"):
    run("--input", source, "--out", tmp_path / "d.jsonl")
  assert not list(tmp_path.glob("*journal*"))


def test_what_was_left_out_is_of_this_run(tmp_path, out, capsys):
  rows = [row(0), row(1), {"id": "s2"}]
  path = write(tmp_path / "in.json", rows)
  args = ["--input", path, "--out", out, "--on-bad-sample", "skip"]
  assert run(*args, "--dry-run") == 0
  assert "1 samples left out" in capsys.readouterr().out
  assert not out.parent.exists()
  assert run(*args) == 0
  skipped = out.with_name("skipped.jsonl")
  assert len(lines(skipped)) == 1
  write(path, rows[:2])
  assert run(*args) == 0
  assert lines(skipped) == []


def test_a_journal_in_use_is_not_set_aside(source, out):
  assert run("--input", source, "--out", out, "--limit", 3) == 0
  path = out.with_name("journal.jsonl")
  with open(path) as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="in use by another process"):
      run("--input", source, "--out", out, "--no-resume")
  assert path.exists()
