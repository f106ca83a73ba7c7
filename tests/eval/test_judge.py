"""The way to a judge: a server on loopback, prompts, costs, interruptions."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from povid_jax.errors import UserError
from povid_jax.eval import __main__ as command
from povid_jax.eval import judge, judge_batch, judge_flags
from povid_jax.eval.protocol import Options
from povid_jax.llm import log

sys.path.insert(0, str(Path(__file__).parent))
from judge_server import JudgeServer  # noqa: E402


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
  monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
  with JudgeServer(lambda body: "fine") as server:
    yield server


@pytest.fixture
def make(server: JudgeServer, tmp_path: Path) -> Callable[..., judge.Judge]:
  """A judge from command line flags."""

  def parse(*flags: str) -> judge.Judge:
    parser = argparse.ArgumentParser()
    judge_flags.add_flags(parser)
    base = [f"--judge-base-url={server.url}", "--judge-model=gpt-4o"]
    args = parser.parse_args([*base, *flags])
    args.out = tmp_path
    return judge_flags.from_args(args)

  return parse


def tasks(count: int) -> list[judge.Task]:
  return [
    judge.Task(
      f"t{i}",
      lambda attempt, i=i: [{"role": "user", "content": f"{i} try {attempt}"}],
    )
    for i in range(count)
  ]


def number(text: str) -> int | None:
  return int(text) if text.isdigit() else None


def prompt_of(body: dict[str, Any]) -> str:
  return body["messages"][-1]["content"]


def test_asks_again_only_what_was_unreadable(server, make) -> None:
  def say(body: dict[str, Any]) -> str:
    place, _, attempt = prompt_of(body).split()
    return "7" if int(attempt) >= int(place) else "unsure"

  server.say = say
  verdicts = judge.settle(
    make(), "b", tasks(4), number, (0.0, 0.0, 0.5), max_tokens=3
  )
  assert [(v.value, v.attempts) for v in verdicts.values()] == [
    (7, 1),
    (7, 2),
    (7, 3),
    (None, 3),
  ]
  asked = [(prompt_of(b), b["temperature"]) for b in server.bodies]
  assert sorted(asked) == sorted(
    (f"{i} try {n}", (0.0, 0.0, 0.5)[n])
    for i in range(4)
    for n in range(min(i + 1, 3))
  )
  assert {b["max_tokens"] for b in server.bodies} == {3}


def test_a_second_run_pays_for_nothing(server, make, tmp_path: Path) -> None:
  ask = lambda count: judge.settle(make(), "b", tasks(count), str, (0.0,), 9)
  ask(3)
  assert len(server.bodies) == 3
  assert ask(3)["t1"].text == "fine"
  assert len(server.bodies) == 3
  ask(5)
  assert len(server.bodies) == 5
  assert "secret-key" not in (tmp_path / "judge.jsonl").read_text()


def test_another_model_judges_anew(server, make) -> None:
  judge.settle(make(), "b", tasks(1), str, (0.0,), 9)
  judge.settle(make("--judge-model=gpt-5"), "b", tasks(1), str, (0.0,), 9)
  assert [body["model"] for body in server.bodies] == ["gpt-4o", "gpt-5"]


@pytest.mark.parametrize(
  ("flag", "sent"), [("official", 0.2), ("default", None), ("1", 1.0)]
)
def test_temperature(server, make, flag: str, sent: float | None) -> None:
  chosen = make(f"--judge-temperature={flag}", "--judge-max-tokens=99")
  judge.settle(chosen, "b", tasks(1), str, (0.2,), 9)
  assert server.bodies[0].get("temperature") == sent
  assert server.bodies[0]["max_tokens"] == 99


def test_stops_at_max_cost_and_continues(server, make) -> None:
  # a reply costs 1000 * 2.5 / 1e6 + 100 * 10 / 1e6 = $0.0035 with gpt-4o
  few = make("--max-cost=0.009", "--judge-concurrency=1")
  with pytest.raises(UserError, match=r"3 of 6 judgements .* the same command"):
    judge.settle(few, "b", tasks(6), str, (0.0,), 9)
  judge.settle(make(), "b", tasks(6), str, (0.0,), 9)
  assert len(server.bodies) == 6


def test_refused_requests_are_named(server, make) -> None:
  server.say = lambda body: 400 if "1 try" in prompt_of(body) else "fine"
  with pytest.raises(UserError, match="1 of 3 judgements are missing"):
    judge.settle(make(), "b", tasks(3), str, (0.0,), 9)
  server.say = lambda body: "fine"
  assert len(judge.settle(make(), "b", tasks(3), str, (0.0,), 9)) == 3


def test_dry_run_asks_nothing(server, make) -> None:
  with pytest.raises(
    judge.DryRun, match=r"3 judgements, .* at most \$0.00\d+ with"
  ):
    judge.settle(make("--dry-run"), "b", tasks(3), str, (0.0,), 9)
  with pytest.raises(judge.DryRun, match="the price of mine is not known"):
    mine = make("--dry-run", "--judge-model=mine")
    judge.settle(mine, "b", tasks(3), str, (0.0,), 9)
  assert not server.bodies


def test_batch_replies_are_read_and_what_failed_is_asked(
  server, make, monkeypatch
) -> None:
  monkeypatch.setattr(judge_batch, "POLL", 0.0)
  server.batch_say = lambda body: 500 if "2 try" in prompt_of(body) else "5"
  server.say = lambda body: "6"
  read = judge.settle(make("--judge-batch"), "b", tasks(4), number, (0.0,), 9)
  assert [verdict.value for verdict in read.values()] == [5, 5, 6, 5]
  assert len(server.batches) == 1
  again = judge.settle(make("--judge-batch"), "b", tasks(4), number, (0.0,), 9)
  assert again == read
  assert len(server.batches) == 1


def test_a_killed_batch_run_finds_its_batch(
  server, make, monkeypatch, tmp_path: Path
) -> None:
  monkeypatch.setattr(judge_batch, "POLL", 0.0)
  chosen = make("--judge-batch")
  write = log.Replies.write

  def killed(self: log.Replies, event: str, **fields: Any) -> None:
    if event == "batch_submitted":  # it never hears that the server took it
      raise KeyboardInterrupt
    write(self, event, **fields)

  monkeypatch.setattr(log.Replies, "write", killed)
  with pytest.raises(KeyboardInterrupt):
    judge.settle(chosen, "b", tasks(3), str, (0.0,), 9)
  assert len(server.batches) == 1
  monkeypatch.setattr(log.Replies, "write", write)
  assert len(judge.settle(chosen, "b", tasks(3), str, (0.0,), 9)) == 3
  assert len(server.batches) == 1
  assert len(server.bodies) == 3
  assert not list((tmp_path / "judge-batches").iterdir())


@pytest.mark.parametrize(
  "said", ["", " \n", "<think>5? 6?", "<think>5</think>"]
)
@pytest.mark.parametrize("flags", [(), ("--judge-batch",)])
def test_an_empty_reply_is_no_reply(
  server, make, monkeypatch, said: str, flags: tuple[str, ...]
) -> None:
  monkeypatch.setattr(judge_batch, "POLL", 0.0)
  server.say = lambda body: said if body["max_tokens"] < 100 else "5"
  with pytest.raises(UserError, match="empty|thoughts|no reply"):
    judge.settle(make(*flags), "b", tasks(3), number, (0.0,), 9)
  wide = make(*flags, "--judge-max-tokens=4000")
  found = judge.settle(wide, "b", tasks(3), number, (0.0,), 9)
  assert [verdict.value for verdict in found.values()] == [5, 5, 5]


def test_the_last_line_names_the_flag_and_the_server(server, make) -> None:
  server.say = lambda body: "<think>9"
  with pytest.raises(UserError, match="3 of 3 .*--judge-max-tokens=4000"):
    judge.settle(make(), "b", tasks(3), number, (0.0,), 9)
  with pytest.raises(UserError, match="2. requests in a row.*judge-max-tok"):
    judge.settle(make(), "b", tasks(40), number, (0.0,), 9)


def test_batch_beyond_max_cost_is_not_sent(server, make) -> None:
  with pytest.raises(UserError, match="may cost"):
    flags = ("--judge-batch", "--max-cost=0.0001")
    judge.settle(make(*flags), "b", tasks(50), str, (0.0,), 9)
  assert not server.batches


FILLED = [
  ("{a} and {b}", "1{b} and 2"),
  ("{} then {}", "1{b} then 2"),
  ("{b}{a}{b}", "21{b}2"),
  ('{"x": "{a}", "y": "{b}"}', '{"x": "1{b}", "y": "2"}'),
]


@pytest.mark.parametrize(("text", "expected"), FILLED)
def test_fill(text: str, expected: str) -> None:
  prompt = judge.Prompt(text, "v")
  assert judge.fill(prompt, {"a": "1{b}", "b": "2"}) == expected


@pytest.mark.parametrize("text", ["{a} only", "{} once", "{} {} {}", "none"])
def test_fill_wants_every_place(text: str) -> None:
  with pytest.raises(UserError, match=re.escape("want {a}, {b}, or 2 {}")):
    judge.fill(judge.Prompt(text, "v"), {"a": "1", "b": "2"})


def test_prompt_file_of_one_benchmark_or_of_all(make, tmp_path: Path) -> None:
  one, other = tmp_path / "one.txt", tmp_path / "other.txt"
  one.write_text("one")
  other.write_text("other")
  chosen = make(f"--judge-prompt=mmvet={one}", f"--judge-prompt={other}")
  load = lambda name: judge.load_prompt(chosen, name, "own-1")
  assert load("mmvet").text == "one"
  assert load("mmhal").text == "other"
  assert load("mmhal").version == "file other.txt"
  own = judge.load_prompt(make(), "mmhal", "own-1")
  assert own.version == "own-1"
  assert own.hash != load("mmhal").hash


def test_flags_that_make_no_sense(make) -> None:
  for text in ("hot", "nan", "-1"):
    with pytest.raises(
      UserError, match="--judge-temperature=.*: want a number"
    ):
      make(f"--judge-temperature={text}")


def test_no_judge_is_said_before_anything_is_asked(tmp_path: Path) -> None:
  with pytest.raises(UserError, match="--judge-model"):
    judge.of(Options(extra={}))
  (tmp_path / "mm-vet.json").write_text("{}")
  with pytest.raises(UserError, match="--judge-model"):
    command.main(
      [
        "--benchmarks=mmvet",
        f"--data={tmp_path}",
        f"--out={tmp_path}/out",
        "--checkpoint=nowhere",
      ]
    )
