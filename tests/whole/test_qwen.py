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


def _config(world):
  fields = {"steps": STEPS, "noise.per_epoch": True}
  return small_world.config(world / "model", world / "data", fields)


@pytest.mark.slow
def test_a_run_that_died_goes_on_to_the_same_numbers(
  world, one_device, monkeypatch, tmp_path
):
  """Losses under noise, with the reference online, bit for bit."""
  train.train_and_evaluate(_config(world), tmp_path / "whole")
  whole = small_world.losses(tmp_path / "whole")
  assert len(set(whole)) == STEPS and np.isfinite(whole).all()

  class Died(Exception):
    pass

  log = loop.Loop._log

  def die(self, writer, step, *rest):
    out = log(self, writer, step, *rest)
    if step == 2:
      raise Died
    return out

  config = small_world.config(
    world / "model",
    world / "data",
    {"steps": STEPS, "noise.per_epoch": True, "checkpoint.every": 2},
  )
  with monkeypatch.context() as patch:
    patch.setattr(loop.Loop, "_log", die)
    with pytest.raises(Died):
      train.train_and_evaluate(config, tmp_path / "died")
  train.train_and_evaluate(config, tmp_path / "died")
  assert small_world.losses(tmp_path / "died") == whole


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
