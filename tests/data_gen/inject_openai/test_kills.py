"""Faults and kills: every item is done once, and paid for once."""

import collections
from pathlib import Path

import pytest

from povid_jax.data.samples import read_samples
from tests.data_gen.inject_openai.runs import (
  check_exactly_once,
  kill_three_times_and_finish,
  run,
  serving,
  summary,
)

FAULTS = {
  "429": 0.05, "500": 0.04, "503": 0.04, "hang": 0.01, "drop": 0.04,
  "truncated": 0.04, "wrong_schema": 0.03, "refusal": 0.02, "apology": 0.02,
  "same": 0.01,
}  # fmt: skip  # 30 % in all


def check_faults_and_kills(folder: Path, count: int) -> None:
  with serving(faults=FAULTS, latency=0.02, hang=5) as server:
    kill_three_times_and_finish(folder, server, count, "--concurrency", 32)
    stats = server.stats()
  lost = check_exactly_once(folder, count)
  result = summary(folder)
  # Paid for twice: only what was on its way when the process was killed.
  paid = collections.Counter(stats["served"])
  twice = sum(paid.values()) - len(paid)
  assert twice <= result["lost_in_flight"] <= 3 * 32
  assert len(paid) >= count - len(lost)
  # Each failure that the server remembers is in the summary, apart from those
  # whose answer a kill cut short.
  ours = collections.Counter(result["failures"]) + collections.Counter(
    result["gates"]
  )
  names = {"429": "429", "500": "500", "503": "503", "drop": "connection",
           "hang": "timeout", "truncated": "bad_json", "same": "identical",
           "wrong_schema": "schema", "refusal": "refusal",
           "apology": "refusal"}  # fmt: skip
  theirs = collections.Counter()
  for fault, number in stats["counts"].items():
    theirs[names[fault]] += number
  lost_in_flight = result["lost_in_flight"]
  assert sum((theirs - ours).values()) <= lost_in_flight
  # A busy machine may let a request run into the time limit by itself.
  assert set(ours - theirs) <= {"timeout", "connection"}


def test_pairs_pictures_and_cost(world):
  folder, samples = world
  samples(12)
  with serving() as server:
    run(folder, server)
    stats = server.stats()
  pairs = read_samples(folder / "pairs.jsonl")
  assert len(pairs) == 12 == len(stats["served"])
  assert "zebra" in pairs[0].rejected[1]
  assert pairs[0].extra["injector"] == "openai/gpt-4o-mini/prompt-1"
  assert pairs[0].extra["edits"][0]["kind"] == "object"
  url = stats["last_body"]["messages"][1]["content"][0]["image_url"]["url"]
  assert url.startswith(("data:image/jpeg;base64,", "data:image/png;base64,"))
  assert summary(folder)["cost"] == pytest.approx(
    12 * (1000 * 0.15 + 100 * 0.6) / 1e6
  )
  assert "secret" not in (folder / "journal.jsonl").read_text()


def test_faults_and_kills(world):
  folder, samples = world
  samples(150)
  check_faults_and_kills(folder, 150)


@pytest.mark.slow
def test_faults_and_kills_at_scale(world):
  folder, samples = world
  samples(2000)
  check_faults_and_kills(folder, 2000)


@pytest.mark.slow
def test_throughput(world):
  """64 in flight at 200 ms: 320 a second is the ceiling, 250 the aim. The
  client needs most of one core for it, so a busy machine will not get there."""
  folder, samples = world
  samples(3000)
  with serving(latency=0.2) as server:
    run(folder, server, "--concurrency", 64, "--timeout", 30)
    assert server.stats()["most_in_flight"] == 64
  print(summary(folder)["items_per_second"], "items/s")
  assert summary(folder)["items_per_second"] >= 250
