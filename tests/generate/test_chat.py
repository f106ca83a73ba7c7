"""A conversation in the terminal: turns, pictures, what cannot be done."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from povid_jax.checkpoints import restore
from povid_jax.data import text
from povid_jax.errors import UserError
from povid_jax.generate import __main__ as generate
from povid_jax.generate import answering, chat
from povid_jax.generate.answering import Decoding, Question
from tests import small_tokenizer, small_world
from tests.data.test_qwen_text import byte_level
from tests.whole import test_qwen, test_tiled

pytestmark = pytest.mark.usefixtures("one_device")

ROOT = Path(generate.__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("chat")
  small_world.model_folder(root)
  small_world.picture(0).save(root / "a.png")
  small_world.picture(1).save(root / "b.png")
  (root / "text.png").write_text("no picture")
  return root


@pytest.fixture(scope="module")
def policy(world):
  with small_world.one_device():
    return answering.load_policy(str(world / "model"))


@pytest.fixture
def talk(world, policy):
  return chat.Chat(policy, Decoding(4, batch_size=1), world / "a.png")


def _typed(monkeypatch, lines):
  lines = iter(lines)

  def read(prompt):
    try:
      return next(lines)
    except StopIteration:
      raise EOFError from None

  monkeypatch.setattr("builtins.input", read)


def test_turns_before_are_read_with_the_question(talk, policy, world):
  first = talk.ask("A bus?")
  assert talk.ask("And a cat?")
  assert talk.turns[:3] == ("A bus?", first, "And a cat?")
  asked = Question(0, (world / "a.png",), "And a cat?", earlier=talk.turns[:2])
  ids = answering.to_prompt(policy, asked, (0,)).ids
  written = "<image>\nA bus?", first, "And a cat?"
  expected = text.encode_prompt(
    written,
    policy.tokenizer,
    policy.template,
    int(np.sum(ids == text.IMAGE_TOKEN)),
  )
  assert ids.tolist() == expected.tolist()
  # the same words after other turns are another question
  other = Question(1, asked.images, asked.text)
  rows = [r for b in answering.stream(policy, [asked, other], Decoding(2))
          for r in b]  # fmt: skip
  assert len(rows) == 2


def test_a_picture_that_is_missing_changes_nothing(talk, world, monkeypatch):
  said: list[str] = []
  answer = talk.ask("A bus?")
  _typed(
    monkeypatch,
    [
      f"/image {world / 'none.png'}",
      f"/image {world / 'text.png'}",
      "/image",
      "/wings",
      "",
    ],
  )
  chat.run(talk, said.append)
  assert len(said) == 5
  assert all(line.startswith("error: ") for line in said[1:])
  assert "no such file" in said[1] and "/reset" in said[4]
  assert talk.turns == ("A bus?", answer)
  assert talk.picture == world / "a.png"


def test_commands_start_anew(talk, world, monkeypatch):
  said: list[str] = []
  one = talk.ask("A bus?")
  lines = ["/reset", "A bus?", f"/image {world / 'b.png'}", "/quit", "A cat?"]
  _typed(monkeypatch, lines)
  chat.run(talk, said.append)
  assert said[2] == (one or "(an empty answer)")  # as the first time
  assert talk.picture == world / "b.png" and talk.turns == ()
  assert len(said) == 4  # nothing after /quit


def test_a_conversation_that_is_too_long_goes_on(talk, monkeypatch):
  said: list[str] = []
  _typed(monkeypatch, ["bus " * 5000, "A bus?"])
  chat.run(talk, said.append)
  assert "too long" in said[1]
  assert len(talk.turns) == 2


@pytest.mark.slow
def test_the_command_at_the_end_of_its_input(world):
  done = subprocess.run(
    [sys.executable, "-m", "povid_jax.generate", "--chat",
     f"--checkpoint={world / 'model'}", f"--image={world / 'a.png'}",
     "--max-new-tokens=4"],
    input="A bus?\n\nA cat?\n",
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize(
  "flags, complaint",
  [
    (["--chat", "--image=none.png"], "no such file"),
    (["--chat", "--out=x"], "--out cannot be used"),
    (["--images=photos", "--image=a.png", "--out=x"], "--chat"),
    (["--images=photos", "--prompt=A bus?"], "--out is missing"),
  ],
)
def test_flags_are_checked_before_the_model_is_read(flags, complaint):
  with pytest.raises(UserError, match=complaint):
    generate.main(["--checkpoint=none", *flags])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["next", "onevision", "qwen"])
def test_every_family_talks(family, world, tmp_path, monkeypatch):
  (tmp_path / "tokenizer").mkdir()
  if family == "qwen":
    config, template = test_qwen.CONFIG, "qwen2_vl"
    tokenizer = byte_level(tmp_path / "tokenizer")
  else:
    config, template = test_tiled.MODELS[family], small_world.TEMPLATE
    tokenizer = small_tokenizer.write(tmp_path / "tokenizer")
  restore.save_model_folder(
    tmp_path / "model",
    config,
    small_world.arrays(config),
    template=template,
    tokenizer=tokenizer,
  )
  small_world.picture(3, (60, 44)).save(tmp_path / "c.png")
  said: list[str] = []
  _typed(
    monkeypatch, ["A bus?", "A cat?", f"/image {tmp_path / 'c.png'}", "A?"]
  )
  policy = answering.load_policy(str(tmp_path / "model"))
  talk = chat.Chat(policy, Decoding(4, batch_size=1), world / "a.png")
  chat.run(talk, said.append)
  assert len(said) == 5 and not any(s.startswith("error") for s in said)
