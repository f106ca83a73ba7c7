"""The writer: rows, resuming, half lines, rates."""

import builtins
import io
import json
import types

import pytest

from povid_jax.errors import UserError
from povid_jax.training import metrics


def rows(workdir):
  text = (workdir / "metrics" / "train.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_rows_and_a_line_every_few_steps(tmp_path, capsys):
  with metrics.Writer(tmp_path, every=2, total_steps=4) as writer:
    for step in range(1, 5):
      values = {"loss": 1 / step, "margin/rejected": 0.25, "grad_norm": 3.0}
      writer.write(step, values, pairs=4, tokens=100)
  assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]
  assert [row["loss"] for row in rows(tmp_path)] == [1, 1 / 2, 1 / 3, 1 / 4]
  out = capsys.readouterr().out.splitlines()
  assert len(out) == 2
  assert out[0].startswith(
    "step 2/4  loss 0.5000  margin rejected +0.250  grad 3  "
  )
  assert "pairs/s" in out[0] and "tokens/s" in out[0] and "MFU" not in out[0]
  assert list((tmp_path / "metrics").glob("events.out.tfevents.*"))


def test_resume_leaves_no_duplicates_and_no_half_line(tmp_path):
  """Died at step 5 in the middle of a line; the checkpoint was of step 3."""
  with metrics.Writer(tmp_path, every=0, tensorboard=False) as writer:
    for step in range(5):
      writer.write(step, {"loss": float(step)})
  path = tmp_path / "metrics" / "train.jsonl"
  with open(path, "a") as file:
    file.write('{"step": 5, "lo')
  with metrics.Writer(
    tmp_path, start_step=3, every=0, tensorboard=False
  ) as writer:
    for step in range(3, 7):
      writer.write(step, {"loss": step + 0.5})
  assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [
    (0, 0.0),
    (1, 1.0),
    (2, 2.0),
    (3, 3.5),
    (4, 4.5),
    (5, 5.5),
    (6, 6.5),
  ]


def test_every_row_is_on_disk_at_once(tmp_path):
  writer = metrics.Writer(tmp_path, every=0, tensorboard=False)
  writer.write(0, {"loss": 1.0})
  assert len(rows(tmp_path)) == 1
  writer.close()


def test_not_finite_is_null(tmp_path):
  with metrics.Writer(tmp_path, every=0) as writer:
    writer.write(0, {"loss": float("nan"), "drift/chosen": float("-inf")})
  assert rows(tmp_path) == [{"step": 0, "loss": None, "drift/chosen": None}]


def test_other_hosts_write_nothing(tmp_path, capsys):
  with metrics.Writer(tmp_path, every=1, enabled=False) as writer:
    writer.write(0, {"loss": 1.0})
  assert not list(tmp_path.iterdir())
  assert capsys.readouterr().out == ""


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
  path = tmp_path / "train.jsonl"
  path.write_text('{"step": 0}\nnot json\n{"step": 2}\n')
  with pytest.raises(UserError, match="train.jsonl, line 2: not JSON"):
    metrics.read(path)


def test_unwritable_folder(tmp_path):
  (tmp_path / "metrics").write_text("a file, not a folder")
  with pytest.raises(UserError, match="cannot write to"):
    metrics.Writer(tmp_path)


def test_a_full_disk_is_said(tmp_path):
  writer = metrics.Writer(tmp_path, every=0, tensorboard=False)
  writer._file.close()
  with open("/dev/full", "w", buffering=1) as full:
    writer._file = full
    with pytest.raises(UserError, match="step 3: cannot write .*No space left"):
      writer.write(3, {"loss": 1.0})
    full.buffer.raw.close()  # what it holds back cannot be written either


def test_wandb_that_is_not_installed(tmp_path, monkeypatch):
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name == "wandb":
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(UserError, match=r"povid_jax\[wandb\]"):
    metrics.Writer(tmp_path, tensorboard=False, wandb={"project": "povid"})


def test_rates_by_hand():
  """4 pairs in 2 s, 900 FLOP in 2 s of a peak of 1000 FLOP/s."""
  times = iter([10.0, 12.0])
  rates = metrics.Rates(peak=1000.0, clock=lambda: next(times))
  assert rates.tick(4, 100, 900) == {}  # the compilation is not counted
  assert rates.tick(4, 100, 900) == {
    "seconds": 2.0,
    "pairs_per_s": 2.0,
    "tokens_per_s": 50.0,
    "mfu": 0.45,
  }


def test_a_line_shows_the_rates_since_the_line_before_it(tmp_path, capsys):
  """2, 1 and 5 pairs in 1, 1 and 2 s: steps 1 to 3 together 2 pairs/s."""
  with metrics.Writer(tmp_path, every=3, tensorboard=False) as writer:
    writer._rates = metrics.Rates(clock=iter([0.0, 1.0, 2.0, 4.0]).__next__)
    for step, pairs in enumerate((9, 2, 1, 5)):
      writer.write(step, {"loss": 1.0}, pairs=pairs)
  first, second = capsys.readouterr().out.splitlines()
  assert "pairs/s" not in first
  assert "  2 pairs/s" in second
  assert [r.get("pairs_per_s") for r in rows(tmp_path)] == [None, 2, 1, 2.5]


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_bar_where_somebody_watches(tmp_path, monkeypatch, capsys):
  terminal = _Terminal()
  monkeypatch.setattr("sys.stderr", terminal)
  with metrics.Writer(
    tmp_path, every=2, start_step=1, total_steps=4, tensorboard=False
  ) as writer:
    writer._rates = metrics.Rates(clock=iter([0.0, 1.0, 2.0]).__next__)
    for step in (1, 2, 3):
      writer.write(step, {"loss": 1.0}, pairs=3)
  shown = terminal.getvalue().split("\r")[-1]
  assert "training: 100%" in shown and "4/4" in shown
  assert "3 pairs/s" in shown
  assert capsys.readouterr().out.startswith("step 2/4  loss 1.000")


def test_no_bar_in_a_log(tmp_path, capsys):
  with metrics.Writer(tmp_path, every=1, tensorboard=False) as writer:
    writer.write(0, {"loss": 1.0})
  assert capsys.readouterr().err == ""


def test_line_with_everything():
  row = {
    "loss": 0.69314,
    "margin/rejected": 0.5,
    "margin/noise": -0.25,
    "drift/chosen": -1.5,
    "lr": 1e-7,
    "pairs_per_s": 3.21,
    "tokens_per_s": 12345.0,
    "mfu": 0.512,
  }
  assert metrics.line(20, row) == (
    "step 20  loss 0.6931  margin rejected +0.500  noise -0.250  "
    "drift -1.50  lr 1e-07  3.21 pairs/s  12.3k tokens/s  MFU 51.2%"
  )


def test_share_of_the_time_that_input_was_waited_for(tmp_path, capsys):
  with metrics.Writer(tmp_path, every=1, tensorboard=False) as writer:
    writer._rates = metrics.Rates(clock=iter([1.0, 3.0, 4.0]).__next__)
    for step, waited in enumerate((9.0, 0.5, 1.5)):
      writer.write(step, {"loss": 1.0, "input_wait_seconds": waited})
  shares = [row.get("input_wait_share") for row in rows(tmp_path)]
  assert shares == [None, 0.25, 1.0]  # the first was compilation
  assert "input wait 25%" in capsys.readouterr().out


def test_a_line_says_what_time_is_left(tmp_path, capsys, monkeypatch):
  """By the pace after the first step, which compiled."""
  times = iter((100.0, 104.0))
  writer = metrics.Writer(tmp_path, every=2, total_steps=103, tensorboard=False)
  clock = lambda: next(times)
  with monkeypatch.context() as patch:
    patch.setattr(metrics, "time", types.SimpleNamespace(monotonic=clock))
    writer.write(0, {"loss": 1.0})
    writer.write(2, {"loss": 1.0})
  writer.close()
  first, second = capsys.readouterr().out.splitlines()
  assert "left" not in first and second.endswith("3:20 left")


@pytest.mark.parametrize(
  ("seconds", "said"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")]
)
def test_clock(seconds, said):
  assert metrics._clock(seconds) == said
