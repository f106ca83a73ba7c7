"""Benchmarks asked during a run: the best is kept, patience ends it."""

import json
import os
import signal

import pytest

from povid_jax import train
from povid_jax.errors import UserError
from povid_jax.eval import __main__ as eval_command
from povid_jax.eval import run
from povid_jax.training import samples
from povid_jax.training.stops import Stops
from tests import small_world

pytestmark = pytest.mark.usefixtures("one_device")

F1 = "pope/f1"
# of each evaluation, in order: the second is the best, two more are worse
SCORES = (0.2, 0.6, 0.5, 0.4, 0.9)
FIELDS = {
  "objective.name": "dpo",
  "steps": 5,
  "eval.every": 1,
  "eval.benchmarks": "pope",
  "eval.patience": 2,
  "checkpoint.best": F1,
  "checkpoint.best_mode": "max",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("eval")
  small_world.model_folder(root)
  small_world.data_folder(root / "data", 6)
  (root / "pope/images").mkdir(parents=True)
  small_world.picture(0).save(root / "pope/images/a.png")
  for split in ("random", "popular", "adversarial"):
    rows = [
      {
        "question_id": i,
        "image": "a.png",
        "text": f"Is there a {word}?",
        "label": label,
      }
      for i, (word, label) in enumerate((("cat", "yes"), ("dog", "no")), 1)
    ]
    (root / f"pope/coco_pope_{split}.json").write_text(
      "".join(json.dumps(row) + "\n" for row in rows)
    )
  return root


def _config(world, **fields):
  return small_world.config(
    world / "model",
    world / "data",
    {**FIELDS, "eval.data": str(world), **fields},
  )


@pytest.fixture
def given(monkeypatch):
  """An evaluation that answers from SCORES; the steps that were asked."""
  asked = []

  def evaluate(request, policy):
    step = int(request.checkpoint.rpartition("@")[2])
    asked.append(step)
    row = {"benchmark": "pope", "metric": "f1", "value": SCORES[step - 1]}
    row |= {"n": 1, "ci95": [0, 1]}
    # what is evaluated is saved first
    saved = request.out.parents[1] / "checkpoints" / str(step)
    assert (saved / "params").is_dir()
    request.out.mkdir(parents=True, exist_ok=True)
    found = {"results": [row], "settings": {"notes": {}, "decoding": None}}
    (request.out / "results.json").write_text(json.dumps(found))
    return run.read_results(request.out)

  monkeypatch.setattr(run, "evaluate", evaluate)
  return asked


def _kept(workdir):
  return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def test_patience_ends_a_run_and_the_best_is_kept(
  world, given, tmp_path, capsys
):
  state = train.train_and_evaluate(_config(world), tmp_path)
  assert int(state.step) == 4 and given == [1, 2, 3, 4]
  assert _kept(tmp_path) == [2, 4]
  said = f"stopped early at step 4 of 5: {F1} was best at step 2"
  assert said in capsys.readouterr().out
  # the same command finds that it is done
  state = train.train_and_evaluate(_config(world), tmp_path)
  assert int(state.step) == 4 and given == [1, 2, 3, 4]
  assert said in capsys.readouterr().out
  # with more patience it goes on, and finds a better one
  state = train.train_and_evaluate(
    _config(world, **{"eval.patience": 3}), tmp_path
  )
  assert int(state.step) == 5 and given == [1, 2, 3, 4, 5]
  assert _kept(tmp_path) == [5]


def test_a_best_that_is_not_measured(world, given, tmp_path):
  wrong = {"checkpoint.best": "pope/rand/f1"}  # no such split in the data
  with pytest.raises(
    UserError, match="'pope/rand/f1' is not a metric of .*pope/f1"
  ) as e:
    train.train_and_evaluate(_config(world, **wrong), tmp_path)
  assert "\n" not in str(e.value)
  assert _kept(tmp_path) == [1]  # nothing trained is lost


@pytest.mark.slow
def test_the_model_as_it_is_now_is_asked(world, tmp_path):
  """Its scores are those of povid_jax.eval for the saved checkpoint."""
  fields = {"steps": 1, "eval.limit": 1, "eval.patience": 0}
  train.train_and_evaluate(_config(world, **fields), tmp_path / "run")
  rows = lambda path: [
    (r["metric"], r["value"], r["n"])
    for r in json.loads((path / "results.json").read_text())["results"]
  ]
  during = rows(tmp_path / "run/eval/1")
  eval_command.main(
    [
      f"--checkpoint={tmp_path}/run@1", "--benchmarks=pope", "--limit=1",
      f"--data={world}", f"--out={tmp_path}/after", "--dtype=float32",
    ]
  )  # fmt: skip
  assert during == rows(tmp_path / "after")
  answers = lambda path: (path / "answers.jsonl").read_text().splitlines()
  said = [json.loads(x)["text"] for x in answers(tmp_path / "run/eval/1")]
  assert said == [json.loads(x)["text"] for x in answers(tmp_path / "after")]
  assert len(said) == 6


def test_benchmarks_that_could_not_run_are_said_first(
  world, tmp_path, monkeypatch
):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  judged = tmp_path / "judged"
  (judged / "mmhal").mkdir(parents=True)
  (judged / "mmhal/response_template.json").write_text("[]")
  plain = {"eval.patience": 0, "checkpoint.best": ""}
  for fields, message in (
    ({"eval.benchmarks": "pop"}, "pop"),
    ({"eval.data": str(tmp_path)}, "pope"),
    ({"eval.data": ""}, "config.eval.data is empty"),
    (
      {"eval.images": str(tmp_path)},
      "1 of 1 pictures.*with config.eval.images",
    ),
    (
      {"eval.benchmarks": ""},
      "config.eval.every and config.eval.patience need",
    ),
    ({"checkpoint.best": "loss"}, "no longer improves.*'loss'"),
    ({"checkpoint.best": "pope/F1"}, "metric of pope; did you mean 'pope/f1'"),
    ({"checkpoint.best": "pope"}, "'pope' is not a metric of pope"),
    (
      {"eval.benchmarks": "mmhal", "eval.data": str(judged), **plain},
      "give one with config.eval.judge ",
    ),
    (
      {
        "eval.benchmarks": "mmhal",
        "eval.data": str(judged),
        "eval.judge": "some-model",
        **plain,
      },
      "no API key: set the environment variable OPENAI_API_KEY",
    ),
  ):
    with pytest.raises(UserError, match=message):
      train.train_and_evaluate(_config(world, **fields), tmp_path / "run")
  assert not (tmp_path / "run/config.json").exists()


def test_a_best_that_no_step_measures_is_found_before_the_pass(world, tmp_path):
  plain = {"eval.benchmarks": "", "eval.every": 0, "eval.patience": 0}
  fields = {**plain, "reference": "cached", "checkpoint.best": "los"}
  with pytest.raises(UserError, match="'los' is not a metric of .*mean 'loss'"):
    train.train_and_evaluate(_config(world, **fields), tmp_path / "run")
  assert not (tmp_path / "run/reference").exists()


def test_an_evaluation_that_fails_loses_no_step(
  world, given, tmp_path, monkeypatch
):
  """The same command, once what failed is mended, evaluates and goes on."""
  asked = run.evaluate

  def fails(request, policy):
    if request.checkpoint.endswith("@2"):
      raise UserError("the judge does not answer")
    return asked(request, policy)

  with monkeypatch.context() as patch:
    patch.setattr(run, "evaluate", fails)
    with pytest.raises(UserError, match="the judge does not answer"):
      train.train_and_evaluate(_config(world), tmp_path)
  assert given == [1] and 2 in _kept(tmp_path)
  train.train_and_evaluate(_config(world), tmp_path)
  assert given == [1, 2, 3, 4]
  assert _kept(tmp_path) == [2, 4]


def test_sample_answers_every_so_often(world, tmp_path, capsys):
  plain = {"eval.benchmarks": "", "eval.every": 0, "eval.patience": 0,
           "checkpoint.best": "", "log.samples": 2}  # fmt: skip
  train.train_and_evaluate(_config(world, **plain), tmp_path)
  lines = (tmp_path / "samples.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [(row["step"], row["id"]) for row in rows] == [
    (step, name) for step in (2, 4) for name in ("r0", "r2", "r4")
  ]  # of the first shard
  assert all("<image>" not in row["prompt"] for row in rows)
  said = capsys.readouterr().out
  assert f"step 4  r4: {rows[-1]['text']}" in said
  assert "compiling the step for " in said and "1 x cpu, mesh (data 1" in said


@pytest.mark.slow
def test_a_signal_leaves_sample_answers_and_saves(world, tmp_path, monkeypatch):
  """The step is saved first; at the last step the run is whole."""
  plain = {"eval.benchmarks": "", "eval.every": 0, "eval.patience": 0,
           "checkpoint.best": "", "log.samples": 1, "steps": 2}  # fmt: skip
  answer = samples.answering.answer

  def told(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    return answer(*args)

  monkeypatch.setattr(samples.answering, "answer", told)
  for code, kept in ((143, [1]), (0, [2])):
    with Stops() as stops:
      train.train_and_evaluate(_config(world, **plain), tmp_path, stops)
    assert stops.code == code and _kept(tmp_path)[-1:] == kept
  assert not (tmp_path / "samples.jsonl").exists()
