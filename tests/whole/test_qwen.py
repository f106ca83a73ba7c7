"""Qwen2.5-VL from records to answers: pictures of many sizes, two, none."""

import dataclasses
import io

import numpy as np
import pytest

from povid_jax import train
from povid_jax.checkpoints import restore
from povid_jax.data.questions import Question
from povid_jax.generate import answering
from povid_jax.generate.decode import Decoding
from povid_jax.training import loop
from tests import qwen_world, small_world
from tests.data.test_qwen_text import byte_level

CONFIG = dataclasses.replace(
  qwen_world.CONFIG,
  decoder=dataclasses.replace(qwen_world.CONFIG.decoder, vocab_size=320),
)
SIZES = [(60, 44), (20, 15), (33, 101), (90, 30)]
STEPS = 4


def _png(size: tuple[int, int], seed: int) -> bytes:
  out = io.BytesIO()
  qwen_world.picture(*size, seed).save(out, "PNG")
  return out.getvalue()


def _records():
  made = [
    small_world.record(i, images=(_png(size, i),))
    for i, size in enumerate(SIZES)
  ]
  two = tuple(_png(size, 7) for size in SIZES[:2])
  return [
    *made,
    small_world.record(
      4, images=two, prompt_turns=("<image>\n<image>\ncat or dog?",)
    ),
    small_world.record(5, images=(), prompt_turns=("How many birds?",)),
    # the next sentence after the same beginning
    small_world.record(6, images=(_png(SIZES[0], 8),), context="A cat."),
    small_world.record(
      7,
      images=two,
      prompt_turns=("<image>\n<image>\nWhich?",),
      context="Two birds.",
    ),
  ]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("qwen")
  (root / "tokenizer").mkdir()
  restore.save_model_folder(
    root / "model",
    CONFIG,
    small_world.arrays(CONFIG),
    template="qwen2_vl",
    tokenizer=byte_level(root / "tokenizer"),
  )
  small_world.data_folder(root / "data", _records())
  return root


FIELDS = {"steps": STEPS, "batch_size": 8, "lr": 3e-3}


def _config(world, **fields):
  return small_world.config(world / "model", world / "data", FIELDS | fields)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
  """Stage 2 on one device, noise and reference within the step."""
  workdir = tmp_path_factory.mktemp("run") / "run"
  with small_world.one_device():
    train.train_and_evaluate(_config(world), workdir)
  losses = small_world.losses(workdir)
  assert len(set(losses)) == STEPS and np.isfinite(losses).all()
  return losses


@pytest.mark.slow
def test_a_run_that_died_goes_on_to_the_bit(
  world, run, one_device, monkeypatch, tmp_path
):
  class Died(Exception):
    pass

  log = loop.Loop._log

  def die(self, writer, step, *rest):
    out = log(self, writer, step, *rest)
    if step == 2:
      raise Died
    return out

  config = _config(world, **{"checkpoint.every": 2})
  with monkeypatch.context() as patch:
    patch.setattr(loop.Loop, "_log", die)
    with pytest.raises(Died):
      train.train_and_evaluate(config, tmp_path)
  train.train_and_evaluate(config, tmp_path)
  assert small_world.losses(tmp_path) == run


@pytest.mark.slow
@pytest.mark.parametrize(
  "fields",
  [
    {"reference": "cached"},
    {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2},
    {"share_prefix": False},
  ],
  ids=["cached reference", "eight devices", "plain"],
)
def test_another_way_to_the_same_losses(world, run, fields, tmp_path):
  train.train_and_evaluate(_config(world, **fields), tmp_path)
  assert small_world.losses(tmp_path) == pytest.approx(run, rel=1e-5)


def test_answers_do_not_depend_on_the_batch(world, one_device, tmp_path):
  questions = []
  for i, size in enumerate(SIZES[:3]):
    (tmp_path / f"{i}.png").write_bytes(_png(size, i))
    questions.append(Question(i, (tmp_path / f"{i}.png",), "What is it?", {}))
  questions.append(Question(3, (), "What is a cat?", {}))
  policy = answering.load_policy(str(world / "model"), dtype="float32")
  how = Decoding(max_new_tokens=6, batch_size=4)
  ask = lambda some: {
    row["question_id"]: row["text"]
    for row in answering.answer(policy, some, how)
  }
  together = ask(questions)
  assert len(together) == 4
  for question in questions:
    assert ask([question]) == {
      question.question_id: together[question.question_id]
    }
