"""Replies of every kind, and what is made of them."""

import json

import pytest

from povid_jax.data.samples import read_samples
from tests.data_gen.inject_openai.runs import (
  check_exactly_once,
  rows,
  run,
  serving,
  summary,
)


def test_a_server_without_schemas_is_asked_in_plain_text(world):
  folder, samples = world
  samples(10)
  with serving(structured=False) as server:
    run(folder, server, "--concurrency", 2)
    stats = server.stats()
  assert len(read_samples(folder / "pairs.jsonl")) == 10
  assert 1 <= stats["counts"]["no_schema"] <= 2  # asked once per worker
  assert "response_format" not in stats["last_body"]


def test_a_schema_refused_in_other_words_and_a_limit_of_another_name(world):
  folder, samples = world
  samples(10)
  words = "The request could not be understood."
  with serving(
    structured=False, schema_words=words, limit="max_completion_tokens"
  ) as server:
    run(folder, server, "--concurrency", 2)
    stats = server.stats()
  assert len(read_samples(folder / "pairs.jsonl")) == 10
  assert stats["counts"] == {"no_schema": 2, "limit": 2}
  assert "max_tokens" not in stats["last_body"]


def test_odd_replies_that_can_be_used_are_used(world):
  folder, samples = world
  samples(20)
  with serving(faults={"parts": 0.5, "odd_usage": 0.5}) as server:
    run(folder, server)
    stats = server.stats()
  assert set(stats["served"].values()) == {1}
  assert set(stats["counts"]) == {"parts", "odd_usage"}
  assert len(read_samples(folder / "pairs.jsonl")) == 20
  assert summary(folder)["failures"] == {}


def test_replies_of_no_use_are_paid_for(world):
  folder, samples = world
  samples(10)
  price = (1000 * 0.15 + 100 * 0.6) / 1e6
  with serving(faults={"truncated": 1}) as server:
    args = ("--retries", 0, "--concurrency", 1)
    run(folder, server, *args, "--max-cost", 5 * price, code=3)
    asked = server.stats()["counts"]["truncated"]
  assert 1 <= asked <= 5 and summary(folder)["cost"] > 0


@pytest.mark.parametrize("engine", ["openai", "openai-batch"])
def test_a_broken_picture_is_no_answer_of_the_server(world, engine):
  folder, samples = world
  source = samples(40)
  broken = json.loads(source.read_text().splitlines()[0]) | {"id": "broken"}
  (folder / "images" / "broken.jpg").write_bytes(b"no picture")
  text = json.dumps(broken | {"image": "broken.jpg"}) + "\n"
  source.write_text(text + source.read_text())
  args = ("--injector", engine, "--poll", 0.05, "--max-cost", 5)
  with serving(faults={"400": 1}, row_faults={"400": 1}) as server:
    done = run(folder, server, *args, code=2)
    assert "run the same command again" in done.stderr
    server.configure(faults={}, row_faults={})
    run(folder, server, *args)
  lost = rows(folder / "rejected.jsonl")
  assert [row["id"] for row in lost] == ["broken"]


@pytest.mark.parametrize("engine", ["openai", "openai-batch"])
def test_a_schema_that_is_ignored_switches_to_plain_text_once(world, engine):
  folder, samples = world
  samples(20)
  args = ("--injector", engine, "--poll", 0.05, "--concurrency", 2)
  with serving(ignores_schema=True) as server:
    run(folder, server, *args)
    if engine == "openai":
      assert "response_format" not in server.stats()["last_body"]
  assert check_exactly_once(folder, 20) == []
  failures = summary(folder)["failures"]
  assert failures == {"unstructured": 2 if engine == "openai" else 20}


def test_plain_never_asks_for_a_schema(world):
  folder, samples = world
  samples(3)
  with serving(ignores_schema=True) as server:
    run(folder, server, "--plain")
    assert sum(server.stats()["served"].values()) == 3
  assert check_exactly_once(folder, 3) == []


def test_thoughts_before_the_answer_are_left_out(world):
  folder, samples = world
  samples(6)
  with serving(faults={"thinks": 1}) as server:
    run(folder, server)
  for pair in read_samples(folder / "pairs.jsonl"):
    assert pair.rejected[1].startswith("A brown zebra")


@pytest.mark.parametrize("engine", ["openai", "openai-batch"])
def test_a_models_own_answers_are_corrected(world, engine):
  folder, samples = world
  samples(4)
  with serving(faults={"same": 0.3}, row_faults={"same": 0.3}) as server:
    args = ("--injector", engine, "--poll", 0.05, "--correct", "--tries", 9)
    run(folder, server, *args)
  pairs = read_samples(folder / "pairs.jsonl")
  assert len(pairs) == 4
  for pair in pairs:
    assert pair.turns[1].startswith("A brown zebra")
    assert pair.rejected[1] == pair.turns[1].replace("zebra", "dog")
    assert pair.extra["edits"] == [
      {"span": "dog", "original": "zebra", "kind": "other"}
    ]
    assert pair.extra["injector"].endswith("/correct-1")


def test_an_error_in_a_200_costs_nothing(world):
  folder, samples = world
  samples(10)
  with serving(faults={"error200": 0.4}) as server:
    run(folder, server)
  price = (1000 * 0.15 + 100 * 0.6) / 1e6
  assert summary(folder)["cost"] == pytest.approx(10 * price)
  assert summary(folder)["failures"]["429"] > 0


BATCH = ("--injector", "openai-batch", "--poll", 0.05)


@pytest.mark.parametrize("engine", ["openai", "openai-batch"])
def test_an_address_with_a_query_as_azures(world, engine):
  folder, samples = world
  samples(4)
  with serving() as server:
    url = f"{server.url}/v1?api-version=2024-06-01"
    run(folder, server, "--injector", engine, "--base-url", url, "--poll", 0.1)
    counts = server.stats()["counts"]
  assert counts["?api-version=2024-06-01 api-key True"] >= 4
  assert len(rows(folder / "pairs.jsonl")) == 4
