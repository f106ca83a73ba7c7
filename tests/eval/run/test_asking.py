"""The command: asking a model, killed and continued."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from povid_jax.errors import UserError
from povid_jax.eval import __main__ as command
from tests.eval.run import runs


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
  return runs.argv(world, out, **{**base, **flags})


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
  first = subprocess.Popen(run, cwd=runs.root())
  while first.poll() is None and not (part.exists() and part.stat().st_size):
    time.sleep(0.01)
  assert first.poll() is None, "it ended before it could be killed"
  os.kill(first.pid, signal.SIGKILL)
  first.wait()
  assert not (tmp_path / "out/results.json").exists()
  assert subprocess.run(run, cwd=runs.root()).returncode == 0
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
  runs.write_lines(world / "preference/pairs.jsonl", pairs)
  questions = [
    {"question_id": i, "image": f"{i}.png", "text": ask} for i in range(4)
  ]
  runs.write_lines(world / "attention/questions.jsonl", questions)
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
    command, cwd=runs.root(), env=env, capture_output=True, text=True
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
  first = subprocess.Popen(run, cwd=runs.root(), env=env)
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
