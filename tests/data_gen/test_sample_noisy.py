"""Rejected answers from a model that sees noise; a model of random weights."""

import argparse
import json

import numpy as np
import pytest

from data_gen.__main__ import main
from data_gen.injectors import sample_noisy
from data_gen.items import make_items
from povid_jax.data.pairs import Sample
from povid_jax.data.samples import read_samples
from povid_jax.errors import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory, photos):
  """A folder with pairs, pictures and a model folder of the test preset."""
  from povid_jax.checkpoints import restore
  from povid_jax.models import params
  from povid_jax.models.presets import preset

  root = tmp_path_factory.mktemp("noisy")
  pairs = photos.make_pairs(root, count=6, images=3)
  argv = ["tokenizer", f"--input={pairs}", f"--out={root}/tokenizer"]
  assert main([*argv, "--vocab-size=300"]) == 0
  config = preset("test")
  _, shapes = params.abstract(config)
  random = np.random.default_rng(0)
  weights = {
    path: random.normal(0, 0.3, leaf.shape).astype(np.float32)
    for path, leaf in shapes.items()
  }
  restore.save_model_folder(
    root / "model",
    config,
    weights,
    template="short",
    tokenizer=root / "tokenizer",
  )
  return root


def sample_pairs(model, out, *more):
  argv = ["sample-noisy", f"--checkpoint={model}/model", f"--out={out}"]
  argv += [f"--input={model}/pairs.jsonl", f"--image-dir={model}/images"]
  return main([*argv, "--max-new-tokens=4", "--batch-size=8", *more])


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def answered(journal):
  """Sample id -> answer, of everything that the model wrote."""
  events = rows(journal)
  return {row["key"]: row["rejected"][0] for row in events if "rejected" in row}


def test_answers_over_noise_become_the_rejected_ones(model, tmp_path, capsys):
  out = tmp_path / "pairs.jsonl"
  assert sample_pairs(model, out) == 0
  before = read_samples(model / "pairs.jsonl")
  answers = answered(tmp_path / "journal.jsonl")
  keys = {item.sample.id: item.key for item in make_items(before)}
  pairs = read_samples(out)
  lost = rows(tmp_path / "rejected.jsonl")
  assert len(pairs) + len(lost) == len(before) == len(answers) == 6
  turns = {sample.id: sample.turns for sample in before}
  for pair in pairs:
    assert pair.turns == turns[pair.id]
    assert pair.rejected == (pair.turns[0], answers[keys[pair.id]])
    assert json.loads(pair.extra["injector"])["noise"]["step"] == 500
  assert f"accepted          {len(pairs)}" in capsys.readouterr().out


def test_a_second_run_asks_nothing_twice(model, tmp_path):
  out = tmp_path / "a.jsonl"
  journal = tmp_path / "a.journal.jsonl"
  assert sample_pairs(model, out) == 0
  lines = journal.read_text().splitlines(keepends=True)
  whole = out.read_text()
  journal.write_text("".join(lines[:3]) + lines[3][:20])  # as if killed
  out.unlink()
  assert sample_pairs(model, out) == 0
  again = journal.read_text().splitlines(keepends=True)
  assert again[:3] == lines[:3] and '"resumed"' in again[3]
  assert sorted(again[4:]) == sorted(lines[3:])
  assert out.read_text() == whole
  with pytest.raises(UserError, match="made with other settings"):
    sample_pairs(model, out, "--noise-step=700")


def test_the_model_sees_the_noise(model, tmp_path):
  for step in (0, 999):
    out = tmp_path / f"{step}.json"
    assert sample_pairs(model, out, f"--noise-step={step}") == 0
  first, last = (
    answered(tmp_path / f"{step}.journal.jsonl") for step in (0, 999)
  )
  assert first.keys() == last.keys() and first != last


def test_bad_input_is_named(model, tmp_path, photos):
  rows = [
    photos.row("text", None, "A poem.", None),
    photos.row("gone", "gone.jpg", "A cat.", None),
    photos.row("good", "0.png", "A rocket.", None),
  ]
  photos.write_rows(tmp_path / "in.jsonl", rows)
  source = f"--input={tmp_path}/in.jsonl"
  with pytest.raises(UserError, match="id 'text': .* has no picture"):
    sample_pairs(model, tmp_path / "out.jsonl", source)
  skip = "--on-bad-sample=skip"
  assert sample_pairs(model, tmp_path / "out.jsonl", source, skip) == 0
  left = (tmp_path / "out.skipped.jsonl").read_text().splitlines()
  assert [json.loads(row)["id"] for row in left][:2] == ["text", "gone"]
  for flag in ("--noise-step=-1", "--limit=0"):
    with pytest.raises(SystemExit, match="2"):
      sample_pairs(model, tmp_path / "x.jsonl", flag)
  with pytest.raises(UserError, match="/nowhere"):
    sample_pairs(model, tmp_path / "x.jsonl", "--checkpoint=/nowhere")


QUESTION = "<image>\nWhat?"


def noisy(**changed):
  flags = {"noise_step": 500, "image_dir": "images", "seed": 0} | changed
  flags |= {"noise_overflow": "wrap", "max_new_tokens": 4, "temperature": 0.0}
  flags |= {"top_p": 1.0, "batch_size": 1}
  return sample_noisy.SampleNoisy(argparse.Namespace(**flags))


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("A dog.", None),
    ("A cat.", "identical"),
    (" A  cat.\n", "identical"),
    ("  ", "empty"),
  ],
)
def test_one_answer(text, reason):
  sample = Sample("a", ("0.png",), (QUESTION, "A cat.", "Sure?", "Yes."),
                  extra={"edits": [1], "category": "vqa"})  # fmt: skip
  (item,) = make_items([sample])
  injector = noisy()
  verdict = injector.check(item, [text], [])
  assert (verdict and verdict.reason) == reason
  if reason is None:
    (made,) = injector.pairs(item, {"rejected": [text]})
    assert made.turns == (QUESTION, "A cat.")
    assert made.rejected == (QUESTION, text)
    assert made.extra == {"category": "vqa", "injector": injector.label}


def test_ids_that_come_again_get_keys_of_their_own():
  samples = [Sample(id, (), ("q", "a")) for id in ("a", "a", "a#2", "a")]
  keys = sample_noisy.question_keys(make_items(samples))
  assert keys == ["a", "a#2", "a#2#2", "a#3"]


def test_answers_to_another_input_are_asked_for_anew(model, tmp_path):
  out = tmp_path / "pairs.jsonl"
  sample_pairs(model, out, "--limit=1")
  rows = (model / "pairs.jsonl").read_text().replace("Describe", "Name")
  (tmp_path / "other.jsonl").write_text(rows)
  sample_pairs(model, out, f"--input={tmp_path}/other.jsonl", "--limit=1")
  assert len(answered(tmp_path / "journal.jsonl")) == 2
  for pair in read_samples(out):
    assert pair.turns[0].endswith("Name this image in detail.")
