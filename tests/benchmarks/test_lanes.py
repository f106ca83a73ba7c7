"""Commands that wait for one another, their lines, failures and kills."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import lanes, quickstart, quickstart_steps
from benchmarks.lanes import Command
from povid_jax.errors import UserError


def _step(name: str, code: str, *needs: str) -> Command:
  return Command(name, f"does {name}", ("-c", code), needs)


def _run(tmp_path: Path, steps, finished=(), at_once=2) -> list[str]:
  done = []
  lanes.run(
    steps,
    finished,
    lambda step, seconds: done.append(step.name),
    lanes=at_once,
    lock=tmp_path / ".lock",
    environment={"WHERE": str(tmp_path)},
  )
  return done


# each leaves its name where the others can look for it
_LEAVE = "import os,sys; open(os.environ['WHERE']+'/'+{name!r}, 'x').close()"
_WANT = "import os,sys; sys.exit(not os.path.exists(os.environ['WHERE']+'/a'))"


def test_a_step_starts_when_what_it_needs_is_done(tmp_path):
  leave = f"import time; time.sleep(0.3); {_LEAVE.format(name='a')}"
  steps = [_step("a", leave), _step("b", _WANT, "a"), _step("c", "pass")]
  assert set(_run(tmp_path, steps)) == {"a", "b", "c"}


# counts the commands that run at this moment by files in a folder, and keeps
# the number; two of four wait until a second one runs beside them
_MEET = """
import os, sys, time
running = os.path.join(os.environ["WHERE"], "running")
name = os.path.join(running, sys.argv[1])
open(name, "x").close()
most, until = 1, time.monotonic() + 30
while most < 2 and time.monotonic() < until:
  most = max(most, len(os.listdir(running)))
  time.sleep(0.01)
with open(os.path.join(os.environ["WHERE"], "seen"), "a") as file:
  print(most, file=file)
time.sleep(0.1)  # a third that was started too early would be counted
most = len(os.listdir(running))
with open(os.path.join(os.environ["WHERE"], "seen"), "a") as file:
  print(most, file=file)
os.remove(name)
"""


def test_two_run_at_once_and_never_three(tmp_path):
  (tmp_path / "running").mkdir()
  steps = [Command(name, name, ("-c", _MEET, name), ()) for name in "abcd"]
  _run(tmp_path, steps)
  seen = [int(line) for line in (tmp_path / "seen").read_text().split()]
  assert max(seen) == 2


def test_finished_steps_are_passed_over(tmp_path, capsys):
  steps = [_step("a", "raise SystemExit(1)"), _step("b", "print(7)", "a")]
  assert _run(tmp_path, steps, finished=["a"]) == ["b"]
  out = capsys.readouterr().out
  assert "[2/2] does b" in out
  assert "b | 7" in out


def test_a_failure_names_the_step_and_stops_the_others(tmp_path):
  late = f"import time; time.sleep(30); {_LEAVE.format(name='late')}"
  steps = [_step("late", late), _step("bad", "raise SystemExit(3)")]
  start = time.monotonic()
  with pytest.raises(UserError, match="bad failed"):
    _run(tmp_path, steps)
  assert time.monotonic() - start < 20
  assert not (tmp_path / "late").exists()


def test_after_a_kill_a_new_run_waits_for_the_orphans(tmp_path):
  orphan = f"import time; time.sleep(2); {_LEAVE.format(name='a')}"
  program = (
    "import sys; from pathlib import Path; from benchmarks import lanes\n"
    f"step = lanes.Command('a', 'a', ('-c', {orphan!r}))\n"
    "lanes.run([step], (), print, lanes=1, lock=Path(sys.argv[1], '.lock'),"
    " environment={'WHERE': sys.argv[1]})\n"
  )
  with subprocess.Popen(
    [sys.executable, "-c", program, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
    cwd=Path(__file__).parents[2],
  ) as process:
    assert process.stdout is not None
    while "$ python" not in process.stdout.readline():
      pass
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
  assert _run(tmp_path, [_step("b", _WANT)]) == ["b"]


def test_the_quickstart_needs_only_what_comes_before():
  known = set()
  for step in quickstart_steps.steps(Path("out"), 0, ablations=True):
    assert known.issuperset(step.needs), step.name
    known.add(step.name)
  assert len(known) > 30


def test_what_a_command_reads_is_what_it_waits_for():
  """Every folder that a command names was made by a step that it needs."""
  steps = quickstart_steps.steps(Path("out"), 0, ablations=True)
  by_name = {step.name: step for step in steps}
  made = {
    r"records/(\w+)": "write-{}",
    r"eval/(\w+)/(\w+)": "eval-{}-{}",
    r"checkpoint=out/(\w+)": "train-{}",
    r"bench/(\w+)": "pope-{}",
  }

  def waits(name: str) -> set[str]:
    needs = by_name[name].needs
    return set(needs).union(*(waits(need) for need in needs))

  looked = 0
  for step in steps:
    for pattern, maker in made.items():
      for groups in re.findall(pattern, str(step)):
        groups = (groups,) if isinstance(groups, str) else groups
        name = maker.format(*groups)
        assert name == step.name or name in waits(step.name), (step.name, name)
        looked += 1
  assert looked > 30


def test_time_is_counted_once_where_commands_overlap():
  rows = [
    {"ended": 10.0, "seconds": 10.0},
    {"ended": 8.0, "seconds": 3.0},
    {"ended": 14.0, "seconds": 6.0},
    {"ended": 105.0, "seconds": 5.0},
  ]
  assert quickstart._busy(rows) == pytest.approx(19.0)
