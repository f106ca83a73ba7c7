"""Answers with a KV cache against running everything anew for each token."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from povid_jax.checkpoints import restore
from povid_jax.data import text
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.generate import answering, writing
from povid_jax.generate.answering import Decoding, Noise
from tests import plain_model, small_world

LENGTH = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """(policy on one device, questions with a picture each)."""
  root = tmp_path_factory.mktemp("decoding")
  folder = small_world.model_folder(root)
  for i in range(5):
    small_world.picture(i).save(root / f"{i}.png")
  words = ("What?", "Is there a car or a bus?", "A dog", "How many?", "Cats?")
  questions = [
    Question(i, (root / f"{i}.png",), words[i], {"truth": "x"})
    for i in range(5)
  ]
  with small_world.one_device():
    return answering.load_policy(str(folder)), questions


def _prompt_length(policy, question):
  return len(answering.to_prompt(policy, question, (0,)).ids)


def _plain_greedy(policy, question):
  """Token ids: the whole sequence through the model for every token."""
  prompt = answering.to_prompt(policy, question, (0,))
  prefix, images = prompt.ids, prompt.pictures()[None]
  embeds = plain_model.image_embeds(policy.graph, policy.params, images)
  stops = text.stop_ids(policy.tokenizer, text.find_template(policy.template))
  ids = np.zeros((1, 64 + LENGTH), np.int32)
  ids[0, : len(prefix)] = prefix
  end = len(prefix)
  while end < len(prefix) + LENGTH:
    logits = plain_model.next_logits(policy.graph, policy.params, ids, embeds)
    token = int(np.argmax(logits[0, end - 1]))
    if token in stops:
      break
    ids[0, end] = token
    end += 1
  return ids[0, len(prefix) : end].tolist()


@pytest.fixture(scope="module")
def greedy(world):
  policy, questions = world
  how = Decoding(max_new_tokens=LENGTH, batch_size=5)
  return answering.answer(policy, questions, how)


def test_greedy_is_the_argmax_of_the_whole_forward_pass(world, greedy):
  policy, questions = world
  for question, row in zip(questions, greedy, strict=True):
    want = _plain_greedy(policy, question)
    assert row["text"] == policy.tokenizer.decode(want).strip()
    assert row["metadata"]["tokens"] == len(want)
  assert len({row["text"] for row in greedy}) > 1


def test_logits_that_are_no_numbers_are_refused(world):
  """Not an answer of tokens that nobody chose, which a benchmark would read."""
  policy, questions = world
  params = dict(policy.params)
  name = "decoder/layers/mlp/down_proj/kernel"
  params[name] = params[name].at[0, 3, 5].set(float("nan"))
  damaged = dataclasses.replace(policy, params=params)
  for how in (Decoding(4), Decoding(4, temperature=1.0, top_k=3, top_p=0.5)):
    with pytest.raises(UserError, match="question 2: a logit .* NaN"):
      answering.answer(damaged, questions[2:3], how)


def test_an_answer_ends_where_the_positions_end(world, greedy):
  policy, questions = world
  how = Decoding(max_new_tokens=LENGTH, batch_size=5)
  longest = max(_prompt_length(policy, q) for q in questions)

  def ask(positions):
    decoder = dataclasses.replace(
      policy.config.decoder, max_positions=positions
    )
    config = dataclasses.replace(policy.config, decoder=decoder)
    weights = dataclasses.replace(policy.weights, config=config)
    short = dataclasses.replace(policy, weights=weights)
    return answering.answer(short, questions, how)

  for question, row, whole in zip(
    questions, ask(longest + 2), greedy, strict=True
  ):
    room = longest + 2 - _prompt_length(policy, question)
    tokens = whole["metadata"]["tokens"]
    assert row["metadata"]["tokens"] == min(tokens, room)
    assert whole["text"].startswith(row["text"])
  with pytest.raises(UserError, match=f"too long: {longest} tokens"):
    ask(longest)


def _sampled(policy, questions, **changes):
  how = {"temperature": 1.0, "max_new_tokens": LENGTH, "batch_size": 5}
  rows = answering.answer(policy, questions, Decoding(**{**how, **changes}))
  return [row["text"] for row in rows]


def test_answers_do_not_depend_on_the_batch(world):
  policy, questions = world
  first = _sampled(policy, questions)
  assert _sampled(policy, questions[::-1])[::-1] == first
  assert _sampled(policy, questions[1:4]) == first[1:4]
  assert _sampled(policy, questions) == first
  other = _sampled(policy, questions, seed=1)
  assert sum(a != b for a, b in zip(first, other, strict=True)) >= 3


def test_a_question_asked_twice_is_answered_once(world, greedy, monkeypatch):
  policy, questions = world
  again = [Question(f"{q.question_id}b", q.images, q.text) for q in questions]
  written = []
  write = writing.write
  monkeypatch.setattr(
    writing, "write", lambda *args: written.extend(args[1]) or write(*args)
  )
  how = Decoding(max_new_tokens=LENGTH, batch_size=5)
  rows = answering.answer(policy, [*again[3:], *questions, *again[:3]], how)
  assert rows[2:7] == greedy
  texts = {str(row["question_id"]): row["text"] for row in rows}
  assert all(texts[f"{i}b"] == texts[f"{i}"] for i in range(5))
  assert len({row["answer_id"] for row in rows}) == 10
  assert len(written) == 5
  sampled = _sampled(policy, [*questions, *again])
  assert sampled[:5] != sampled[5:]  # each draws for itself
  assert len(written) == 15


def test_rows_are_llavas(world, greedy):
  policy, questions = world
  assert [row["question_id"] for row in greedy] == list(range(5))
  assert [row["prompt"] for row in greedy] == [q.text for q in questions]
  assert {row["model_id"] for row in greedy} == {policy.fingerprint}


def test_resumes_after_a_torn_line(world, greedy, tmp_path):
  policy, questions = world
  out = tmp_path / "new/answers.jsonl"
  how = Decoding(max_new_tokens=LENGTH, batch_size=5)
  answering.answer(policy, questions[:2], how, out)
  whole = out.read_text()
  out.write_text(whole[:-9])
  rows = answering.answer(policy, questions, how, out)
  assert rows == greedy
  lines = [json.loads(line) for line in out.read_text().splitlines()]
  assert sorted(row["question_id"] for row in lines) == list(range(5))
  before = out.read_bytes()
  assert answering.answer(policy, questions, how, out) == greedy
  assert out.read_bytes() == before
  out.write_text("[]\n")
  with pytest.raises(UserError, match="line 1: want an answer"):
    answering.answer(policy, questions, how, out)


def test_noise_changes_the_answers(world, greedy):
  policy, questions = world
  how = Decoding(max_new_tokens=LENGTH, batch_size=5)
  noisy = answering.answer(policy, questions, how, noise=Noise(900))
  changed = [a["text"] != b["text"] for a, b in zip(noisy, greedy, strict=True)]
  assert sum(changed) >= 2
  still = answering.answer(policy, questions, how, noise=Noise(900))
  assert noisy == still


def test_question_ids_are_unique(world):
  policy, questions = world
  twice = [questions[0], Question("0", (), "again")]
  with pytest.raises(UserError, match="'0' occurs more than once"):
    answering.answer(policy, twice, Decoding())


@pytest.mark.slow
def test_eight_devices_answer_the_same(world, greedy):
  policy, questions = world
  assert jax.device_count() == 8
  folder = policy.weights.tokenizer.parent
  wide = answering.load_policy(str(folder))
  assert wide.mesh.devices.size == 8
  how = Decoding(max_new_tokens=LENGTH, batch_size=5)
  assert answering.answer(wide, questions, how) == greedy


def test_parameters_must_fit(tmp_path):
  weights = small_world.arrays()
  path = "decoder/norm/scale"
  for i, (change, message) in enumerate(
    (
      (weights.pop(path), f"parameter {path} is missing"),
      (np.ones(3, np.float32), rf"{path} has shape \(3,\), want \(32,\)"),
    )
  ):
    if i:
      weights[path] = change
    root = tmp_path / str(i)
    root.mkdir()
    folder = small_world.model_folder(root, weights)
    with pytest.raises(UserError, match=message):
      answering.load_policy(str(folder))
  assert restore.describe(folder) == small_world.MODEL
