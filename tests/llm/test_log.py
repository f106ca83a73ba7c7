"""`ask_all`: each request once, whatever interrupts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from povid_jax.errors import UserError
from povid_jax.llm import Options, Reply, Request, ask_all
from povid_jax.llm.log import Replies

PROVIDER = Path(__file__).parents[1] / "data_gen" / "fake_provider.py"


@pytest.fixture
def server(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", "secret")
  monkeypatch.setenv("NO_PROXY", "*")
  config = json.dumps({"faults": {"500": 0.2, "drop": 0.1}})
  command = [sys.executable, str(PROVIDER), config]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
  process.kill()
  process.wait()
  process.stdout.close()


def questions(count: int, text: str = "question") -> list[Request]:
  return [
    Request(f"q{i}", [{"role": "user", "content": f"{text} {i}"}])
    for i in range(count)
  ]


def options(url: str, **more) -> Options:
  return Options("gpt-4o-mini", base_url=url, backoff=0.01, **more)


def test_replies_are_kept_and_asked_once(server, tmp_path):
  log = tmp_path / "log.jsonl"
  replies = ask_all(questions(10), options(server), log)
  assert {k: r.text for k, r in replies.items()} == {
    f"q{i}": f"echo question {i}" for i in range(10)
  }
  assert replies["q0"].cost == pytest.approx((150 + 60) / 1e6)
  size = log.stat().st_size
  again = ask_all(questions(10), options("http://127.0.0.1:9/v1"), log)
  assert again == replies and log.stat().st_size == size
  more = ask_all(questions(12), options(server), log)
  assert len(more) == 12 and log.read_text().count("\n") == 12


def test_other_messages_are_another_question(server, tmp_path):
  log = tmp_path / "log.jsonl"
  ask_all(questions(2), options(server), log)
  replies = ask_all(questions(2, "new"), options(server), log)
  assert replies["q1"].text == "echo new 1"


def test_a_torn_line_is_asked_again(server, tmp_path):
  log = tmp_path / "log.jsonl"
  ask_all(questions(3), options(server), log)
  keys = lambda: [json.loads(x)["key"] for x in log.read_text().splitlines()]
  torn = keys()[-1]  # replies come in any order
  log.write_bytes(log.read_bytes()[:-9])
  assert len(ask_all(questions(3), options(server), log)) == 3
  assert keys()[-1] == torn and len(keys()) == 3


def test_the_budget_stops_the_questions(server, tmp_path):
  price = (150 + 60) / 1e6
  most = options(server, concurrency=1, max_tokens=100)
  replies = ask_all(questions(50), most, max_cost=5.5 * price)
  assert 0 < len(replies) <= 6


def test_what_got_no_reply_is_told(server, tmp_path, capsys):
  bad = Request("bad", [{"role": "user", "content": []}])
  replies = ask_all([*questions(2), bad], options(server, retries=0))
  assert "bad" not in replies
  assert "without a reply: connection 1" in capsys.readouterr().err
  assert "127.0.0.1" in replies.problem


def test_a_foreign_log_is_named(tmp_path):
  log = tmp_path / "log.jsonl"
  log.write_text('{"a": 1}\n')
  with pytest.raises(UserError, match="line 1"):
    ask_all(questions(1), options("http://127.0.0.1:9/v1"), log)


def test_a_key_is_needed_for_the_public_server(monkeypatch):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  with pytest.raises(UserError, match="OPENAI_API_KEY"):
    ask_all(questions(1), Options("gpt-4o-mini"))


def test_a_file_without_a_line_end_is_left_alone(tmp_path):
  path = tmp_path / "notes.json"
  path.write_text('{"precious": 1}')
  with pytest.raises(UserError, match="not a line of a reply log"):
    Replies(path)
  assert path.read_text() == '{"precious": 1}'
  path.write_text('{"ke')  # the first line, torn by a kill
  log = Replies(path)
  assert log.held == {} and path.read_text() == ""
  log.close()


def test_more_room_is_another_request(server, tmp_path):
  log = tmp_path / "log.jsonl"
  for room, lines in ((10, 2), (20, 4), (10, 4)):
    ask_all(questions(2), options(server, max_tokens=room), log)
    assert log.read_text().count("\n") == lines


EMPTY = {"key": "q", "text": "", "parsed": None, "refusal": None,
         "finish": "length", "structured": False, "prompt_tokens": 1,
         "completion_tokens": 1, "cost": 0.5}  # fmt: skip


def test_what_is_no_reply_is_not_kept_as_one(tmp_path):
  path = tmp_path / "log.jsonl"
  path.write_text(json.dumps(EMPTY | {"fingerprint": "f"}) + "\n")
  log = Replies(path)
  assert log.held == {}
  cut, good = Reply(**EMPTY), Reply(**EMPTY | {"text": "5", "finish": "stop"})
  assert "cut off" in log.take(cut, "f") and log.held == {}
  assert log.take(good, "f") == "" and log.held["q", "f"] == good
  assert log.cost == 1.0
  log.close()
  again = Replies(path)
  assert again.held == {("q", "f"): good} and again.cost == 1.0
  again.close()
