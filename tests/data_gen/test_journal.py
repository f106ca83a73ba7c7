"""What survives a kill, and what a second run may not do."""

import json

import pytest

from data_gen.journal import Journal, set_aside
from povid_jax.errors import UserError

SETTINGS = {"injector": "x/1", "seed": 0}


@pytest.fixture
def path(tmp_path):
  return tmp_path / "journal.jsonl"


def fill(path) -> None:
  journal = Journal(path, SETTINGS)
  for key in "abc":
    journal.write("sent", key=key)
  journal.write(
    "accepted", key="a", rejected=["ä no"], edits=[{"kind": "object"}], cost=0.5
  )
  journal.write("refused", key="b", reason="length", cost=0.25)
  journal.write("sent", key="b")
  journal.write("failed", key="c", reason="500")
  journal.write("given_up", key="c", reason="500")
  journal.close()


def test_a_new_run_knows_everything(path):
  fill(path)
  journal = Journal(path, SETTINGS)
  assert journal.result("a")["rejected"] == ["ä no"]
  assert journal.finished("a") and journal.finished("c")
  assert not journal.finished("b")
  assert journal.tries["b"] == 1 and journal.cost == 0.75
  assert journal.gates == {"length": 1} and journal.failures == {"500": 1}
  assert journal.counts["lost_in_flight"] == 1 and not journal.in_flight
  assert [e["key"] for e in journal.events("refused")] == ["b"]
  journal.close()


def test_losses_add_up_over_runs(path):
  fill(path)
  for lost in (1, 2):
    journal = Journal(path, SETTINGS)
    assert journal.counts["lost_in_flight"] == lost
    journal.write("sent", key="b")
    journal.close()


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_line_is_cut_off(path, cut):
  fill(path)
  data = path.read_bytes()
  last = len(data.splitlines()[-1])
  path.write_bytes(data[: -min(cut, last)])
  journal = Journal(path, SETTINGS)
  assert not journal.finished("c") and journal.finished("a")
  journal.write("given_up", key="c", reason="x")
  journal.close()
  assert all(json.loads(line) for line in path.read_text().splitlines())


def test_every_prefix_of_a_journal_is_a_journal(path):
  fill(path)
  data = path.read_bytes()
  for end in range(0, len(data), 7):
    path.write_bytes(data[:end])
    journal = Journal(path, SETTINGS)
    assert set(journal.accepted) <= {"a"}
    journal.close()


def test_long_results_are_read_whole(path):
  journal = Journal(path, SETTINGS)
  text = "ü" * 200_000
  journal.write("accepted", key="a", rejected=[text], edits=[])
  journal.write("accepted", key="b", rejected=["b"], edits=[])
  assert journal.result("a")["rejected"] == [text]
  assert journal.result("b")["rejected"] == ["b"]
  journal.close()


def test_other_settings_are_refused_by_name(path):
  fill(path)
  with pytest.raises(UserError, match="seed was 0, now 1.*--no-resume"):
    Journal(path, SETTINGS | {"seed": 1})


def test_two_processes_cannot_share_it(path):
  journal = Journal(path, SETTINGS)
  with pytest.raises(UserError, match="in use by another process"):
    Journal(path, SETTINGS)
  journal.close()


@pytest.mark.parametrize("line", ["[]", "{}", "no", '{"event"', "1"])
def test_a_foreign_file_is_named(path, line):
  path.write_text(line + "\n")
  with pytest.raises(UserError, match="line 1: not a line of a journal"):
    Journal(path, SETTINGS)
  assert path.read_text() == line + "\n"


def test_an_old_journal_is_kept(path):
  assert set_aside(path) is None
  for number in (1, 2):
    fill(path)
    assert set_aside(path).name == f"journal.jsonl.old-{number}"
  assert not path.exists()


def test_what_belongs_to_an_old_journal_goes_with_it(path):
  """Request files of batches that are open: a fresh run would remove them."""
  Journal(path, {}).close()
  batches = path.with_name("batches")
  batches.mkdir()
  (batches / "open.jsonl").write_text("paid")
  assert set_aside(path, batches) == path.with_name(f"{path.name}.old-1")
  assert not batches.exists()
  assert (path.with_name("batches.old-1") / "open.jsonl").read_text() == "paid"
