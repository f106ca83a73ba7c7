"""What stops a run, what it says then, and what it costs."""

import subprocess

import pytest

from povid_jax.data.samples import read_samples
from tests.data_gen.inject_openai.runs import (
  check_exactly_once,
  command,
  environment,
  rows,
  run,
  serving,
  summary,
)


@pytest.mark.parametrize("count", [3, 60])
@pytest.mark.parametrize("engine", ["openai", "openai-batch"])
def test_a_server_that_refuses_everything_loses_nothing(world, count, engine):
  folder, samples = world
  samples(count)
  args = ("--injector", engine, "--poll", 0.05)
  with serving(faults={"400": 1}, row_faults={"400": 1}) as server:
    done = run(folder, server, *args, code=2)
    assert "run the same command again" in done.stderr
    server.configure(faults={}, row_faults={})
    run(folder, server, *args)
  assert check_exactly_once(folder, count) == []


def test_one_bad_request_is_given_up(world):
  folder, samples = world
  samples(40)
  with serving(faults={"400": 0.4}) as server:
    run(folder, server, "--tries", 1)
  lost = rows(folder / "rejected.jsonl")
  assert lost and {row["reason"] for row in lost} == {"bad_request"}
  check_exactly_once(folder, 40)


def test_a_request_that_is_refused_now_and_then_is_tried_again(world):
  folder, samples = world
  samples(20)
  with serving(faults={"400": 0.4}) as server:
    run(folder, server, "--tries", 9)
    assert server.stats()["counts"]["400"] > 0
  assert check_exactly_once(folder, 20) == []


def test_a_wrong_key_stops_the_run(world):
  folder, samples = world
  samples(50)
  with serving() as server:
    done = run(folder, server, code=2, OPENAI_API_KEY="wrong")
    tried = server.stats()["counts"]["401"]
  assert "OPENAI_API_KEY" in done.stderr and "wrong" not in done.stderr
  assert tried <= 16 + 3
  assert not (folder / "pairs.jsonl").exists()


def test_an_empty_account_stops_the_run(world):
  folder, samples = world
  samples(5)
  with serving(faults={"quota": 1}) as server:
    done = run(folder, server, code=2)
  assert "quota" in done.stderr


def test_a_dead_server_stops_the_run_and_nothing_is_lost(world):
  folder, samples = world
  samples(40)
  with serving(faults={"503": 1}) as server:
    done = run(folder, server, "--retries", 1, code=2)
    assert "same command again" in done.stderr
    server.configure(faults={})
    run(folder, server, "--retries", 1)
  assert check_exactly_once(folder, 40) == []


def test_items_that_never_pass_are_listed(world):
  folder, samples = world
  samples(12)
  with serving(faults={"apology": 0.7}) as server:
    run(folder, server, "--tries", 2, "--concurrency", 1)
    apologies = server.stats()["counts"]["apology"]
  lost = rows(folder / "rejected.jsonl")
  assert lost and {row["reason"] for row in lost} == {"refusal"}
  assert len(lost[0]["tries"]) == 2
  assert summary(folder)["gates"] == {"refusal": apologies}
  assert len(check_exactly_once(folder, 12)) == len(lost)


@pytest.mark.parametrize("engine", ["openai", "openai-batch"])
@pytest.mark.parametrize(
  ("fault", "words"),
  [("elsewhere", "reasoning_content"), ("apology", "refusal: I'm sorry")],
)
def test_a_run_without_one_usable_reply_gives_nothing_up(
  world, engine, fault, words
):
  folder, samples = world
  samples(30)
  args = ("--injector", engine, "--poll", 0.05, "--patience", 5, "--tries", 2)
  with serving(faults={fault: 1}, row_faults={fault: 1}) as server:
    done = run(folder, server, *args, code=2)
    assert words in done.stderr.splitlines()[-1]
    assert sum(server.stats()["counts"].values()) <= 2 * 30 + 4
    server.configure(faults={}, row_faults={})
    run(folder, server, *args)
  assert check_exactly_once(folder, 30) == []


def test_the_last_of_a_run_are_given_up_the_second_time(world):
  folder, samples = world
  samples(4)
  with serving() as server:
    run(folder, server)
    samples(6)
    server.configure(faults={"apology": 1})
    assert "the same command again" in run(folder, server, code=2).stderr
    assert len(read_samples(folder / "pairs.jsonl")) == 4
    run(folder, server)
  assert check_exactly_once(folder, 6) == ["s4", "s5"]


def test_the_servers_words_are_in_the_last_line(world):
  folder, samples = world
  samples(3)
  with serving(faults={"500": 1}) as server:
    done = run(folder, server, "--retries", 0, code=3)
  assert (
    "(500: Error code: 500 - The server had an error)"
    in (done.stdout.splitlines()[-1])
  )


def test_retry_after_holds_everybody(world):
  folder, samples = world
  samples(20)
  with serving(faults={"429": 0.3}, retry_after=0.7) as server:
    run(folder, server, "--concurrency", 4)
    starts = server.stats()["starts"]
  gaps = [b - a for a, b in zip(starts, starts[1:], strict=False)]
  assert max(gaps) >= 0.65
  assert check_exactly_once(folder, 20) == []


def test_the_budget_is_kept(world):
  folder, samples = world
  samples(60)
  price = (1000 * 0.15 + 100 * 0.6) / 1e6
  with serving() as server:
    args = ("--concurrency", 4, "--max-cost")
    done = run(folder, server, *args, 20 * price, code=3)
    assert "the same command again" in done.stdout
    assert summary(folder)["cost"] <= 20 * price
    first = len(read_samples(folder / "pairs.jsonl"))
    assert 0 < first <= 20
    run(folder, server, *args, 1.0)
    served = server.stats()["served"]
  assert len(served) == 60 and set(served.values()) == {1}


def test_a_budget_needs_a_price(world):
  folder, samples = world
  samples(1)
  with serving() as server:
    args = ("--model", "llama", "--max-cost", 1)
    assert "--prices" in run(folder, server, *args, code=2).stderr
    prices = folder / "prices.json"
    prices.write_text('{"models": {"llama": {"input": 1, "output": 1}}}')
    run(folder, server, *args, "--prices", prices)


def test_dry_run_estimates_and_asks_nothing(world):
  folder, samples = world
  samples(100)
  with serving() as server:
    text = run(folder, server, "--dry-run").stdout
    assert server.stats()["served"] == {}
  assert "100 requests" in text and "openai-batch" in text
  assert text.count("Conversation:") == 3 and "base64" not in text
  assert not (folder / "journal.jsonl").exists()


def test_no_key_is_said_before_anything_happens(world):
  folder, samples = world
  samples(1)
  with serving() as server:
    args = [a for a in command(folder, server) if "127.0.0.1" not in a]
    args.remove("--base-url")
  env = {k: v for k, v in environment().items() if k != "OPENAI_API_KEY"}
  done = subprocess.run(args, env=env, capture_output=True, text=True)
  assert done.returncode == 2 and "OPENAI_API_KEY" in done.stderr
  assert not (folder / "journal.jsonl").exists()


def test_a_broken_picture_is_listed_with_its_name(world):
  folder, samples = world
  samples(8)
  (folder / "images" / "1.jpg").write_bytes(b"no picture")
  with serving() as server:
    run(folder, server)
  lost = rows(folder / "rejected.jsonl")
  assert {row["reason"] for row in lost} == {"bad_image"}
  assert [row["id"] for row in lost] == ["s1", "s5"]
  assert "1.jpg" in lost[0]["tries"][0]["detail"]


# The Batch API.
