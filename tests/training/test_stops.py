"""Signals: where they leave at once, and where they are only noted."""

import os
import signal
import subprocess
import sys

import pytest

from povid_jax.training.stops import Stopped, Stops


def _send(number):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(15, 143), (2, 130)])
def test_with_nothing_to_save_it_leaves_at_once(number, code, capsys):
  before = signal.getsignal(number)
  with pytest.raises(Stopped) as caught, Stops() as stops:
    _send(number)
  assert caught.value.code == stops.code == code
  assert "run the same command again" in capsys.readouterr().err
  assert signal.getsignal(number) is before


def test_where_something_is_saved_it_is_noted():
  with Stops() as stops:
    with stops.noting_signals(lambda: ""):
      _send(signal.SIGTERM)
      assert stops.told == stops.agreed() == signal.SIGTERM
      with pytest.raises(Stopped), stops.leaving_at_signal():
        raise AssertionError("told before: it leaves at the door")
    with pytest.raises(Stopped):
      _send(signal.SIGTERM)


def test_a_signal_during_an_evaluation_leaves_it():
  with Stops() as stops, stops.noting_signals(lambda: ""):
    with pytest.raises(Stopped), stops.leaving_at_signal():
      _send(signal.SIGTERM)


def test_a_second_interrupt_leaves_and_says_what_is_lost():
  code = (
    "import os\n"
    "from povid_jax.training.stops import Stops\n"
    "with Stops() as stops, stops.noting_signals(lambda: '7 steps are lost'):\n"
    "  os.kill(os.getpid(), 2)\n"
    "  os.kill(os.getpid(), 2)\n"
    "  print('not reached')\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 130 and done.stdout == ""
  first, second = done.stderr.splitlines()
  assert "Ctrl-C again stops at once" in first
  assert second == "stopped at once: 7 steps are lost"
