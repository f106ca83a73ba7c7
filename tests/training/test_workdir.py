"""Which run a directory belongs to, and what of it may change."""

import json

import pytest

from povid_jax.errors import UserError
from povid_jax.training import workdir
from tests import small_world


def _config(**fields):
  return small_world.config(
    "model", "data", {k.replace("__", "."): v for k, v in fields.items()}
  )


def _held(path, **fields):
  """A run directory of these fields with a saved step."""
  (path / "checkpoints/4").mkdir(parents=True)
  workdir.keep(_config(steps=6, **fields), path, 6)
  return path


FREE = {
  "on_nonfinite": "skip",
  "data__on_bad_sample": "skip",
  "checkpoint__keep": 3,
  "eval__limit": 5,
  "log__samples": 2,
  "head_chunk": 32,
}


def test_fields_that_may_change(tmp_path):
  held = _held(tmp_path)
  for name, value in FREE.items():
    workdir.check(_config(steps=6, **{name: value}), held)
  with pytest.raises(UserError, match="config.lr=0.01, this one has 0.5"):
    workdir.check(_config(steps=6, lr=0.5), held)


@pytest.mark.parametrize(
  ("fields", "why"),
  [
    ({"schedule": "constant"}, ""),
    ({"schedule": "constant", "warmup_steps": 2, "warmup_ratio": 0.1}, ""),
    ({"schedule": "cosine"}, "the cosine schedule depends on the length"),
    ({"schedule": "linear"}, "the linear schedule depends on the length"),
    (
      {"schedule": "constant", "warmup_ratio": 0.1},
      "warmup_ratio, a share of the steps, depends on the length",
    ),
  ],
)
def test_a_longer_run_where_the_steps_done_stay_what_they_were(
  fields, why, tmp_path
):
  held = _held(tmp_path, **fields)
  longer = _config(steps=9, **fields)
  if not why:
    workdir.check(longer, held)
    return
  with pytest.raises(UserError, match=why) as caught:
    workdir.check(longer, held)
  assert f"--config.init={held}" in str(caught.value)


def test_a_run_that_goes_on_has_not_ended(tmp_path):
  held = _held(tmp_path)
  workdir.note_end(held, 6, 6)
  assert json.loads((held / "done.json").read_text())["step"] == 6
  workdir.keep(_config(steps=9), held, 9)
  assert not (held / "done.json").exists()
  assert json.loads((held / "config.json").read_text())["total_steps"] == 9
