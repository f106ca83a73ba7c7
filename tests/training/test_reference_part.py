"""A pass of the reference that was interrupted goes on where it was."""

import numpy as np
import pytest

from povid_jax import train
from povid_jax.training import build, reference_part
from povid_jax.training.stops import Stopped
from tests import small_world

pytestmark = pytest.mark.usefixtures("one_device")


def test_values_of_another_pass_are_not_taken(tmp_path):
  part = reference_part.Part(tmp_path / "reference", {"data": "a"})
  assert part.load() == (0, {})
  part.keep(3, {"chosen": np.arange(4.0)})
  assert part.load() == (0, {})  # too soon after the start
  part.keep(3, {"chosen": np.arange(4.0)}, now=True)
  done, values = part.load()
  assert done == 3 and values["chosen"].tolist() == [0, 1, 2, 3]
  other = reference_part.Part(tmp_path / "reference", {"data": "b"})
  assert other.load() == (0, {})
  (tmp_path / "reference.part/logps.npz").write_bytes(b"half")
  assert part.load() == (0, {})
  part.remove()
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_interrupted_pass_goes_on(tmp_path, monkeypatch, capsys):
  world = small_world.folders(tmp_path, 8)
  config = small_world.config(
    world / "model",
    world / "data",
    {"objective.name": "dpo", "reference": "cached", "steps": 1},
  )
  train.train_and_evaluate(config, tmp_path / "whole")
  placed = []
  place = build.place

  def stop_at_third(host, *rest):
    placed.append(host)
    if len(placed) == 3:
      raise Stopped(143)  # as a signal does
    return place(host, *rest)

  with monkeypatch.context() as patch:
    patch.setattr(build, "place", stop_at_third)
    with pytest.raises(Stopped):
      train.train_and_evaluate(config, tmp_path / "run")
  assert (tmp_path / "run/reference.part/key.json").is_file()
  capsys.readouterr()
  train.train_and_evaluate(config, tmp_path / "run")
  assert "continuing with batch 2 of 4" in capsys.readouterr().out
  assert not (tmp_path / "run/reference.part").exists()
  read = lambda name: np.load(tmp_path / name / "reference/logps.npz")["chosen"]
  np.testing.assert_array_equal(read("run"), read("whole"))
  assert np.isfinite(read("run")).all()
