"""The command: scoring given answers, asking a model, comparing two runs."""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from povid_jax.errors import UserError
from povid_jax.eval import __main__ as command

NAMES = ("random", "popular", "adversarial")


def _write_lines(path: Path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """DATA with four drawn pictures: chair/, pope/ and images/."""
  data = tmp_path_factory.mktemp("data")
  (data / "images").mkdir()
  for i in range(4):
    Image.new("RGB", (40, 30), (60 * i, 40, 90)).save(data / f"images/{i}.png")
  images = [{"id": i, "file_name": f"{i}.png"} for i in range(4)]
  names = ("dog", "cat", "bus", "cup", "kite", "book")
  categories = [{"id": i, "name": name} for i, name in enumerate(names)]
  held = [
    {"image_id": i, "category_id": c} for i in range(4) for c in (0, i + 1)
  ]
  (data / "chair").mkdir()
  (data / "chair/instances_val.json").write_text(
    json.dumps(
      {"images": images, "annotations": held, "categories": categories}
    )
  )
  (data / "chair/captions_val.json").write_text(
    json.dumps({"images": images, "annotations": []})
  )
  argv = ["build-pope", f"--instances={data}/chair/instances_val.json"]
  argv += [f"--out={data}/pope", "--images=4", "--per-image=4"]
  assert command.main(argv) == 0
  return data


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A model folder of the test preset with random weights."""
  from data_gen.__main__ import main as data_gen
  from povid_jax.checkpoints import restore
  from povid_jax.models import params
  from povid_jax.models.presets import preset

  root = tmp_path_factory.mktemp("model")
  sample = {
    "id": "a",
    "conversations": [
      {"from": "human", "value": "Is there a dog in the image? Describe it."},
      {"from": "gpt", "value": "Yes, a dog and a cat beside a bus and a cup."},
    ],
  }
  (root / "text.json").write_text(json.dumps([sample]))
  argv = ["tokenizer", f"--input={root}/text.json", f"--out={root}/tokenizer"]
  assert data_gen([*argv, "--vocab-size=300"]) == 0
  _, shapes = params.abstract(preset("test"))
  random = np.random.default_rng(0)
  weights = {
    path: random.normal(0, 0.3, leaf.shape).astype(np.float32)
    for path, leaf in shapes.items()
  }
  restore.save_model_folder(
    root / "model",
    preset("test"),
    weights,
    template="short",
    tokenizer=root / "tokenizer",
  )
  return root / "model"


def _argv(world, out, **flags):
  argv = [f"--data={world}", f"--out={out}", "--resamples=50"]
  return argv + [f"--{k.replace('_', '-')}={v}" for k, v in flags.items()]


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
  _write_lines(path, rows)
  return path


def _score(world, folder, wrong=(), **flags):
  given = _given(world, folder / "given.jsonl", wrong)
  out = folder / "out"
  argv = _argv(world, out, answers=given, benchmarks="pope", **flags)
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
  argv = _argv(world, again, answers=first, benchmarks="pope")
  assert command.main(argv) == 0
  assert _results(first) == _results(again)


def test_a_split_of_answers_to_all(world, tmp_path):
  out = _score(world, tmp_path, wrong=(0, 17), split="popular")
  found = _results(out)
  assert found["pope", "popular/accuracy"]["value"] == 15 / 16
  assert ("pope", "random/accuracy") not in found


def test_scoring_does_not_load_jax(world, tmp_path):
  given = _given(world, tmp_path / "given.jsonl")
  argv = _argv(world, tmp_path / "out", answers=given, benchmarks="pope")
  code = (
    "import sys; from povid_jax.eval.__main__ import main; main(sys.argv[1:]); "
    "sys.exit('jax' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code, *argv], cwd=_root())
  assert done.returncode == 0


def _root() -> Path:
  return Path(command.__file__).parents[2]


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
  argv = _argv(world, tmp_path / "b", answers=given, benchmarks="pope")
  assert command.main([*argv, "--clean-rules"]) == 0
  with pytest.raises(UserError, match="different --clean-rules"):
    command.main(["compare", str(a), str(tmp_path / "b")])
  with pytest.raises(UserError, match="no results.json"):
    command.main(["compare", str(a), str(tmp_path)])


BAD = {
  "no such benchmark": ({"benchmarks": "pop"}, "no benchmark is called 'pop'"),
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
  argv = _argv(
    world, tmp_path / "out", **{"answers": given, "benchmarks": "pope", **flags}
  )
  with pytest.raises(UserError, match=message):
    command.main(argv)


def test_errors_are_one_line_and_code_2(tmp_path):
  argv = ["--answers=none.jsonl", "--benchmarks=pope", f"--out={tmp_path}/o"]
  done = subprocess.run(
    [sys.executable, "-m", "povid_jax.eval", *argv, f"--data={tmp_path}"],
    cwd=_root(),
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


@pytest.fixture(scope="module")
def asked(world, model, tmp_path_factory):
  """A finished run of chair and pope on the model."""
  out = tmp_path_factory.mktemp("asked") / "out"
  assert command.main(_ask(world, model, out)) == 0
  return out


def _ask(world, model, out, **flags):
  base = {
    "checkpoint": model,
    "benchmarks": "chair,pope",
    "max_new_tokens": 6,
    "batch_size": 8,
  }
  return _argv(world, out, **{**base, **flags})


def test_a_model_is_asked_every_question(asked):
  rows = [
    json.loads(line)
    for line in (asked / "answers.jsonl").read_text().splitlines()
  ]
  assert len(rows) == 4 + 48
  assert rows[0]["prompt"] == "Describe this image."
  settings = json.loads((asked / "results.json").read_text())["settings"]
  assert len(settings["checkpoint_hash"]) > 6
  assert settings["decoding"]["pope"] == {
    "max_new_tokens": 6,
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "seed": 0,
    "batch_size": 8,
  }
  assert "greedy, <= 6 tokens" in (asked / "results.md").read_text()


def test_a_killed_run_ends_with_the_same_results(world, model, asked, tmp_path):
  """What a killed run leaves: some whole lines, and a torn one."""
  for name in ("chair", "pope"):
    held = (asked / f"answers/{name}.settings.json").read_text()
    lines = (asked / f"answers/{name}.jsonl").read_text().splitlines(True)
    (tmp_path / "answers").mkdir(exist_ok=True)
    (tmp_path / f"answers/{name}.settings.json").write_text(held)
    (tmp_path / f"answers/{name}.jsonl").write_text(
      "".join(lines[:3]) + lines[3][:20]
    )
  assert command.main(_ask(world, model, tmp_path)) == 0
  for name in ("results.json", "answers.jsonl", "verdicts.jsonl"):
    assert (tmp_path / name).read_text() == (asked / name).read_text()


def test_answers_of_other_settings_are_not_mixed(world, model, asked):
  with pytest.raises(UserError, match="another max_new_tokens.*--overwrite"):
    command.main(_ask(world, model, asked, max_new_tokens=7))
  with pytest.raises(UserError, match="another questions"):
    command.main(_ask(world, model, asked, prompt="chair=What?"))


def test_missing_pictures_are_named_before_asking(world, model, tmp_path):
  argv = _ask(world, model, tmp_path / "out", images=tmp_path)
  with pytest.raises(UserError, match="4 of 4 pictures are missing.*--images"):
    command.main(argv)


@pytest.mark.slow
def test_a_run_killed_for_real_continues(world, model, asked, tmp_path):
  argv = _ask(world, model, tmp_path / "out", batch_size=1)
  run = [sys.executable, "-m", "povid_jax.eval", *argv]
  part = tmp_path / "out/answers/pope.jsonl"
  first = subprocess.Popen(run, cwd=_root())
  while first.poll() is None and not (part.exists() and part.stat().st_size):
    time.sleep(0.01)
  assert first.poll() is None, "it ended before it could be killed"
  os.kill(first.pid, signal.SIGKILL)
  first.wait()
  assert not (tmp_path / "out/results.json").exists()
  assert subprocess.run(run, cwd=_root()).returncode == 0
  whole = (tmp_path / "out/answers.jsonl").read_text()
  assert whole == (asked / "answers.jsonl").read_text()


@pytest.fixture(scope="module")
def measured(world, model, tmp_path_factory):
  """A finished run of the benchmarks that look into the model."""
  ask = "Is there a dog in the image? Describe it."
  turns = lambda answer: [
    {"from": "human", "value": f"<image>\n{ask}"},
    {"from": "gpt", "value": answer},
  ]
  pairs = [
    {
      "id": f"p{i}",
      "image": f"{i}.png",
      "conversations": turns("Yes, a dog and a bus."),
      "rejected_conversations": turns("Yes, a cat beside a cup."),
    }
    for i in range(4)
  ]
  _write_lines(world / "preference/pairs.jsonl", pairs)
  questions = [
    {"question_id": i, "image": f"{i}.png", "text": ask} for i in range(4)
  ]
  _write_lines(world / "attention/questions.jsonl", questions)
  out = tmp_path_factory.mktemp("measured") / "out"
  _run(_measure(world, model, out))
  return out


def _measure(world, model, out):
  return _ask(
    world,
    model,
    out,
    benchmarks="preference,attention,noise_sweep",
    reference=model,
    noise_steps="clean,500",
    batch_size=1,
    images=world / "images",
  )


def _run(argv):
  """On one device, as compiling for eight takes minutes here."""
  command = [sys.executable, "-m", "povid_jax.eval", *argv]
  env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
  done = subprocess.run(
    command, cwd=_root(), env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return done


MEASURED = ("results.json", "answers.jsonl", "verdicts.jsonl", "counts.jsonl",
            "attention/heads.json")  # fmt: skip


@pytest.mark.slow
def test_measurements_say_what_they_measured(measured):
  settings = json.loads((measured / "results.json").read_text())["settings"]
  hashes = settings["data_hash"]
  assert len({hashes[name] for name in hashes}) == 3
  nothing = hashlib.sha256().hexdigest()[:16]
  assert nothing not in hashes.values()
  assert settings["prompt"]["noise_sweep"] == "Describe this image."
  assert settings["prompt"]["attention"].startswith("Is there a dog")
  text = (measured / "answers.jsonl").read_text()
  rows = [json.loads(line) for line in text.splitlines()]
  names = [(row["benchmark"], row["question_id"]) for row in rows]
  assert len(set(names)) == len(names) == 4 + 2 * 4
  assert ("attention", 0) in names and ("noise_sweep", "0@500") in names


@pytest.mark.slow
@pytest.mark.parametrize("part", ["noise_sweep-*", "attention-*"])
def test_a_killed_measurement_ends_with_the_same_results(
  world, model, measured, tmp_path, part
):
  """Killed while it writes answers; what is torn is asked again."""
  argv = _measure(world, model, tmp_path / "out")
  run = [sys.executable, "-m", "povid_jax.eval", *argv]
  env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
  first = subprocess.Popen(run, cwd=_root(), env=env)
  answers = tmp_path / "out/answers"
  while first.poll() is None and not any(answers.glob(part)):
    time.sleep(0.01)
  assert first.poll() is None, "it ended before it could be killed"
  os.kill(first.pid, signal.SIGKILL)
  first.wait()
  assert not (tmp_path / "out/results.json").exists()
  for path in answers.glob(part):
    path.write_bytes(path.read_bytes() + b'{"torn')
  _run(argv)
  for name in MEASURED:
    ours = (tmp_path / "out" / name).read_text()
    assert ours == (measured / name).read_text(), name
