"""The Batch API: faults, limits, kills at every step."""

import json
import signal
import subprocess
import sys
import time

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

BATCH = ("--injector", "openai-batch", "--poll", 0.05)
ROW_FAULTS = {"500": 0.1, "429": 0.05, "truncated": 0.05, "refusal": 0.05,
              "wrong_schema": 0.05}  # fmt: skip


def test_batches_with_every_fault(world):
  folder, samples = world
  samples(120)
  faults = ["failed", "expired", "", "partial"]
  with serving(
    batch_faults=faults, row_faults=ROW_FAULTS, upload_faults=2
  ) as server:
    run(folder, server, *BATCH, "--batch-requests", 25)
    stats = server.stats()
  check_exactly_once(folder, 120)
  assert set(stats["served"].values()) == {1}
  failures = summary(folder)["failures"]
  assert failures["failed"] == 25
  assert failures["expired"] == 13 and failures["missing"] >= 13
  assert failures["500"] == stats["counts"]["500"]
  assert list((folder / "batches").iterdir()) == []
  done = summary(folder)
  outcomes = sum(done["failures"].values()) + sum(done["gates"].values())
  assert done["requests"] == outcomes + done["accepted"]
  pairs = read_samples(folder / "pairs.jsonl")
  name = "openai-batch/gpt-4o-mini/prompt-1"
  assert pairs[0].extra["injector"] == name
  half = (1000 * 0.15 + 100 * 0.6) / 1e6 / 2
  replies = len(pairs) + sum(summary(folder)["gates"].values())
  assert summary(folder)["cost"] == pytest.approx(replies * half, rel=1e-3)


def test_batch_files_keep_the_limits(world):
  folder, samples = world
  samples(30)
  with serving() as server:
    run(folder, server, *BATCH, "--batch-megabytes", 0.1)
    stats = server.stats()
  assert stats["counts"]["uploads"] > 3
  assert len(read_samples(folder / "pairs.jsonl")) == 30
  events = rows(folder / "journal.jsonl")
  planned = [e for e in events if e["event"] == "batch_planned"]
  assert sum(event["requests"] for event in planned) == 30


STEPS = ("batch_planned", "batch_uploaded", "batch_submitting",
         "batch_submitted", "accepted")  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_a_batch_is_taken_up_where_it_was(world, step):
  """kill -9 right after each step: nothing is sent or paid a second time."""
  folder, samples = world
  samples(40)
  code = (
    "import os, signal, sys\n"
    "from data_gen import __main__ as cli\n"
    "from data_gen.journal import Journal\n"
    "write = Journal.write\n"
    "def killing(self, event, **fields):\n"
    "  write(self, event, **fields)\n"
    f"  if event == {step!r}:\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
    "Journal.write = killing\n"
    "cli.main(sys.argv[1:])\n"
  )
  with serving(row_faults={"500": 0.1}) as server:
    args = command(folder, server, *BATCH)[3:]
    killed = subprocess.run(
      [sys.executable, "-c", code, *args], env=environment()
    )
    assert killed.returncode == -signal.SIGKILL
    run(folder, server, *BATCH)
    stats = server.stats()
  assert check_exactly_once(folder, 40) == []
  assert set(stats["served"].values()) == {1}
  settled = [
    event
    for event in rows(folder / "journal.jsonl")
    if event["event"] == "batch_settled"
  ]
  assert stats["counts"]["batches"] == len(settled)


def test_a_submission_that_was_never_written_down_is_found(world):
  folder, samples = world
  samples(20)
  with serving() as server:
    run(folder, server, *BATCH)
    # The journal as a kill leaves it between submission and its record.
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    cut = next(i for i, x in enumerate(lines) if '"batch_submitted"' in x)
    name = json.loads(lines[cut])["batch"]
    journal.write_text("".join(lines[:cut]))
    request_file = folder / "batches" / f"{name}.jsonl"
    keys = [json.loads(x)["key"] for x in lines if '"accepted"' in x]
    request_file.write_text(
      "".join(json.dumps({"custom_id": f"{key}/0"}) + "\n" for key in keys)
    )
    (folder / "pairs.jsonl").unlink()
    run(folder, server, *BATCH)
    stats = server.stats()
  assert stats["counts"]["batches"] == 1 and set(stats["served"].values()) == {
    1
  }
  assert check_exactly_once(folder, 20) == []


def test_an_open_batch_must_be_finished_by_the_command_that_began_it(world):
  folder, samples = world
  samples(20)
  with serving(batch_delay=60) as server:
    process = subprocess.Popen(
      command(folder, server, *BATCH),
      env=environment(),
      stdout=subprocess.DEVNULL,
    )
    journal = folder / "journal.jsonl"
    while not journal.exists() or "batch_submitted" not in journal.read_text():
      assert process.poll() is None
      time.sleep(0.02)
    process.kill()
    process.wait()
    done = run(folder, server, *BATCH, "--limit", 5, code=2)
  assert "15 items that this command would not process" in done.stderr


def test_batches_that_bring_nothing_stop(world):
  folder, samples = world
  samples(3)
  with serving(batch_faults=["failed"] * 9) as server:
    done = run(folder, server, *BATCH, code=2)
  assert "3 rounds of batches" in done.stderr and "not valid" in done.stderr


def test_a_batch_in_a_state_of_its_own_is_still_open(world):
  folder, samples = world
  samples(6)
  names = {"validating": "Queued", "in_progress": "RUNNING",
           "completed": "Completed"}  # fmt: skip
  with serving(states=names, batch_delay=0.4) as server:
    run(folder, server, *BATCH)
    assert server.stats()["counts"]["batches"] == 1
  assert check_exactly_once(folder, 6) == []


def test_batches_wait_for_room_in_the_account(world):
  folder, samples = world
  samples(8)
  with serving(room=1, batch_delay=0.2) as server:
    run(folder, server, *BATCH, "--batch-requests", 2)
    stats = server.stats()
  assert check_exactly_once(folder, 8) == []
  assert set(stats["served"].values()) == {1}
  assert stats["counts"]["uploads"] == 4 and summary(folder)["failures"] == {}
