"""Pairs from a checkpoint's own answers: kills, shards, servers."""

import collections
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from data_gen import __main__ as data_gen
from data_gen.injectors.sample import Sample
from data_gen.sampling.sources import OwnDecoder
from povid_jax.data import text
from povid_jax.data.picture import Picture
from povid_jax.data.questions import Question
from povid_jax.data.samples import read_samples
from povid_jax.errors import UserError
from povid_jax.eval.benchmarks import chair_words
from povid_jax.generate import answering, writing
from povid_jax.generate.slots import Marks
from tests import small_tokenizer, small_world
from tests.data_gen.sampling.completions_server import Server

PICTURES = 10


def _rows(path: Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def _present(picture: int, word: str) -> bool:
  return zlib.crc32(f"{picture}{word}".encode()) % 2 == 0


def _annotate(root: Path, words: list[str]) -> None:
  """words.txt and instances.json: every picture holds about half of them."""
  (root / "words.txt").write_text("".join(f"{word}\n" for word in words))
  document = {
    "images": [{"id": i, "file_name": f"{i}.png"} for i in range(PICTURES)],
    "categories": [{"id": n, "name": w} for n, w in enumerate(words)],
    "annotations": [
      {"image_id": i, "category_id": n}
      for i in range(PICTURES)
      for n, word in enumerate(words)
      if _present(i, word)
    ],
  }
  (root / "instances.json").write_text(json.dumps(document))


def _flags(root: Path, out: str, *flags: str) -> list[str]:
  return [
    "sample",
    f"--input={root / 'input.jsonl'}",
    f"--image-dir={root}",
    f"--annotations={root / 'instances.json'}",
    f"--vocabulary={root / 'words.txt'}",
    f"--out={root / out}",
    "--length-ratio=20",
    "--candidates=4",
    *flags,
  ]


def _run(root: Path, out: str, *flags: str) -> int:
  return data_gen.main(_flags(root, out, *flags))


@contextlib.contextmanager
def often_over():
  """One token in eight ends an answer, and many end a sentence."""
  vocabulary = np.random.default_rng(0).random((2, small_tokenizer.VOCAB))
  marks = Marks(*(jnp.asarray(row < 0.5) for row in vocabulary))
  with pytest.MonkeyPatch.context() as patch, small_world.one_device():
    patch.setattr(text, "stop_ids", lambda *_: tuple(range(2, 400, 8)))
    patch.setattr(writing, "sentence_marks", lambda _: marks)
    # one padded length for prompts with and without a context
    patch.setattr(writing, "LENGTH_MULTIPLE", 64)
    yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """A random model that ends one token in eight, and a world of its words."""
  root = tmp_path_factory.mktemp("sample")
  small_world.model_folder(root)
  rows = []
  for i in range(PICTURES):
    small_world.picture(i).save(root / f"{i}.png")
    question = {"from": "human", "value": f"<image>\nWhat is in {i}?"}
    answer = {"from": "gpt", "value": "A dog."}
    rows.append(
      {"id": f"p{i}", "image": f"{i}.png", "conversations": [question, answer]}
    )
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (root / "input.jsonl").write_text(lines)
  with often_over():
    _annotate(root, ["zzz"])
    _run(root, "first.jsonl", *_own(root))
    seen = collections.Counter(
      word
      for row in _rows(root / "first.journal.jsonl")
      if row["event"] == "candidate"
      for _, said, _ in row["candidates"]
      for word in chair_words.tokens(said.lower())
      if word.isalpha()
    )
    _annotate(root, sorted(word for word, _ in seen.most_common(60)))
    yield root


def _own(root: Path, unit: str = "answer") -> tuple[str, ...]:
  return (
    f"--checkpoint={root / 'model'}",
    f"--unit={unit}",
    "--max-new-tokens=24",
    "--batch-size=8",
    "--chunk=4",
  )


@pytest.fixture(scope="module", params=["answer", "sentence"])
def whole(request, world):
  """(unit, bytes of the pairs) of a run that nothing interrupts."""
  out = f"whole-{request.param}.jsonl"
  assert _run(world, out, *_own(world, request.param)) == 0
  return request.param, (world / out).read_bytes()


def _invents(row: dict, said: str) -> list[str]:
  vocabulary = chair_words.Vocabulary({}, {})
  words = (Path(row["root"]) / "words.txt").read_text().split()
  vocabulary.names.update(dict.fromkeys(words, ""))
  picture = int(row["image"].split(".")[0])
  tokens = map(vocabulary.singular, chair_words.tokens(said.lower()))
  return [t for t in tokens if t in words and not _present(picture, t)]


def test_the_chosen_text_is_clean_and_the_rejected_invents(world, whole):
  unit, data = whole
  rows = [json.loads(line) for line in data.splitlines()]
  assert len(rows) >= 3
  for row in rows:
    row["root"] = str(world)
    chosen = row["conversations"][1]["value"]
    rejected = row["rejected_conversations"][1]["value"]
    assert not _invents(row, chosen)
    assert set(row["invented"]) == set(_invents(row, rejected))
    assert row["invented"]
  contexts = [row["context"] for row in rows if "context" in row]
  assert bool(contexts) == (unit == "sentence")
  assert len(list(read_samples(world / f"whole-{unit}.jsonl"))) == len(rows)


def test_five_kills_change_nothing(world, whole, monkeypatch):
  """Each leaves a torn line; no candidate that is there is written again."""
  unit, data = whole
  out = f"killed-{unit}.jsonl"
  write, left = OwnDecoder.write, [0]

  def dies(self, tasks):
    for found in write(self, tasks):
      if left[0] == 0:
        raise KeyboardInterrupt
      left[0] -= 1
      yield found

  monkeypatch.setattr(OwnDecoder, "write", dies)
  journal = world / f"killed-{unit}.journal.jsonl"
  for _ in range(5):
    left[0] = 2
    with pytest.raises(KeyboardInterrupt):
      _run(world, out, *_own(world, unit))
    assert not (world / out).exists()
    journal.write_bytes(journal.read_bytes()[:-7])
  left[0] = -1
  assert _run(world, out, *_own(world, unit)) == 0
  assert (world / out).read_bytes() == data
  written = [
    (row["task"], number)
    for row in _rows(journal)
    if row["event"] == "candidate"
    for number, *_ in row["candidates"]
  ]
  assert len(set(written)) == len(written)


def test_shards_merge_into_one_set(world, whole):
  unit, _ = whole
  parts = []
  for i in range(3):
    parts.append(world / f"part-{unit}-{i}.jsonl")
    _run(world, parts[-1].name, *_own(world, unit), f"--shard={i}/3")
  assert sum(bool(part.read_text()) for part in parts) > 1
  one, three = world / f"one-{unit}.jsonl", world / f"three-{unit}.jsonl"
  names = [str(part) for part in parts]
  data_gen.main(["merge", *names, f"--out={three}"])
  data_gen.main(["merge", str(world / f"whole-{unit}.jsonl"), f"--out={one}"])
  assert three.read_bytes() == one.read_bytes()


def test_another_seed_writes_other_answers(world, whole):
  unit, data = whole
  out = f"seed-{unit}.jsonl"
  _run(world, out, *_own(world, unit), "--seed=1")
  assert (world / out).read_bytes() != data
  with pytest.raises(UserError, match="made with other settings"):
    _run(world, out, *_own(world, unit), "--seed=2")


@pytest.fixture
def street(world, tmp_path):
  """The same pictures, and what the server speaks of."""
  for name in ("input.jsonl", *(f"{i}.png" for i in range(PICTURES))):
    (tmp_path / name).write_bytes((world / name).read_bytes())
  _annotate(tmp_path, ["dog", "cat", "car", "bus"])
  images = [{"id": i, "file_name": f"{i}.png"} for i in range(PICTURES)]
  said = [{"image_id": i, "caption": "A dog."} for i in range(PICTURES)]
  captions = {"images": images, "annotations": said}
  (tmp_path / "captions.json").write_text(json.dumps(captions))
  return tmp_path


def _served(root: Path, servers, out: str, *flags: str) -> int:
  urls = [server.url for server in servers]
  return _run(root, out, "--base-url", *urls, "--model=m", "--backoff=0.01",
              "--unit=sentence", "--max-sentences=4", *flags)  # fmt: skip


def test_servers_with_faults_are_paid_once(street, monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", "secret")
  with Server(faults=0.0) as good:
    assert _served(street, [good], "good.jsonl") == 0
  with Server(seed=1) as first, Server(seed=2) as second:
    servers = [first, second]
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
      patch.setattr(Sample, "pairs", _interrupt)  # all is asked, none written
      _served(street, servers, "pairs.jsonl")
    asked = first.asked + second.asked
    assert _served(street, servers, "pairs.jsonl") == 0
    assert first.asked + second.asked == asked
    paid = first.paid + second.paid
  assert min(len(first.paid), len(second.paid)) > 3
  assert set(paid.values()) == {1}
  assert paid == good.paid
  assert asked > sum(paid.values())
  assert (street / "pairs.jsonl").read_text() == (
    (street / "good.jsonl").read_text()
  )
  bodies = [b for b in first.bodies if b["messages"][-1]["role"] != "user"]
  assert all(body["continue_final_message"] for body in bodies)
  assert bodies


def test_the_words_of_the_system_are_heard_and_kept(street, monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", "secret")
  path = street / "input.jsonl"
  rows = _rows(path)
  for row in rows:
    said = {"from": "system", "value": f"Be brief about {row['id']}."}
    row["conversations"].insert(0, said)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  with Server(faults=0.0) as server:
    assert _served(street, [server], "system.jsonl") == 0
  assert {body["messages"][0]["role"] for body in server.bodies} == {"system"}
  pairs = list(read_samples(street / "system.jsonl"))
  assert pairs
  for pair in pairs:
    assert pair.system == f"Be brief about {pair.id.partition('-')[0]}."


def test_our_decoder_puts_the_system_into_the_prompt(world):
  policy = answering.load_policy(str(world / "model"), None)
  weights = dataclasses.replace(policy.weights, template="vicuna_v1")
  policy = dataclasses.replace(policy, weights=weights)
  picture = (Picture("0.png", str(world)),)
  question = Question("q", picture, "What is there?", system="Be brief.")
  ids = answering.to_prompt(policy, question, (0,)).ids
  words = policy.tokenizer.decode([i for i in ids.tolist() if i >= 0])
  assert words.lstrip().startswith("Be brief. USER:")


def _interrupt(*_):
  raise KeyboardInterrupt


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      ("--checkpoint=x", "--base-url=y"),
      "give --checkpoint for a local model",
    ),
    (("--checkpoint=x", "--shard=3/3"), "want 0 <= I < N"),
    (("--checkpoint=x", "--shard=a/b"), "want I/N"),
    (("--checkpoint=x", "--verify=detections"), "needs --detections"),
    (("--base-url=http://127.0.0.1:9",), "needs --model"),
    (
      (
        "--checkpoint=x",
        "--annotations",
        "captions.json",
        "--objects=annotated",
      ),
      "needs --annotations instances",
    ),
  ],
)
def test_flags_that_make_no_sense(street, flags, message, monkeypatch):
  monkeypatch.chdir(street)
  with pytest.raises(UserError, match=message):
    _run(street, "bad.jsonl", *flags)


_CHILD = """
import sys
from tests.data_gen.sampling import test_sample
with test_sample.often_over():
  sys.exit(test_sample.data_gen.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_kill_9_five_times(world, whole):
  """A process of its own, killed whenever it has written some more."""
  unit, data = whole
  out = f"shot-{unit}.jsonl"
  journal = world / f"shot-{unit}.journal.jsonl"
  command = [sys.executable, "-c", _CHILD]
  command += _flags(world, out, *_own(world, unit))
  env = {**os.environ, "XLA_FLAGS": ""}  # one device, as in `world`
  size = lambda: journal.stat().st_size if journal.exists() else 0
  for _ in range(5):
    before = size()
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    while size() < before + 600 and process.poll() is None:
      time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
  assert subprocess.run(command, env=env).returncode == 0
  assert (world / out).read_bytes() == data
