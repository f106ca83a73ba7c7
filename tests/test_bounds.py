"""Every field of the config has a bound, and what is outside is refused."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from povid_jax import bounds, config, objectives, train
from povid_jax.errors import UserError
from povid_jax.models import backends, llama
from povid_jax.training import build, optim
from tests import small_world

FIELDS = config.flat_fields(config.default())
NUMBERS = sorted(
  path
  for path, value in FIELDS.items()
  if isinstance(value, int | float) and not isinstance(value, bool)
)


def _made(path=None, value=None):
  fields = {} if path is None else {path: value}
  return small_world.config("model", "data", fields)


def test_every_field_has_a_bound_that_its_default_keeps():
  assert set(bounds.BOUNDS) == set(FIELDS) - {"objective.hyper"}
  build.check(_made())


def test_choices_are_those_of_the_modules_that_have_them():
  assert set(bounds.BOUNDS["attention"].choices) == set(backends.BACKENDS)
  assert set(bounds.BOUNDS["remat"].choices) == set(llama.REMAT)
  assert set(bounds.BOUNDS["schedule"].choices) == set(optim.SCHEDULES)
  assert config.default().objective.name in objectives.OBJECTIVES


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize(
  "value", ["nan", "inf", "-inf", "1e400", "", "abc", "0x10", "-7", "1e13"]
)
def test_numbers_that_no_field_takes(path, value):
  with pytest.raises(UserError, match=rf"config\.{path}") as caught:
    build.check(_made(path, value))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("path", "value", "wanted"),
  [
    ("clip_norm", -1, "want a number of at least 0"),
    ("lora.alpha", 0, "want a number above 0, at most 1000000"),
    ("lr", 0, "want a number above 0"),
    ("head_chunk", 0, "want a number of at least 1"),
    ("data.buckets", 0, "want a number of at least 1, at most 64"),
    ("mesh.fsdp", 0, "or -1"),
    ("b2", 1, "at most"),
    ("warmup_ratio", 1.5, "at most 1 "),
    ("schedule", "cosin", "want one of cosine, linear, constant"),
    ("checkpoint.best_mode", "least", "want one of min, max"),
    ("lora.targets", "(", "want a regular expression"),
    ("trainable", "[", "want a regular expression"),
    ("data.train", "gs://bucket/data", "folders of this machine only"),
    ("init", "s3:/bucket/model", "folders of this machine only"),
    ("reference_cache", "memory://x", "folders of this machine only"),
    ("data.train", "", "is empty"),
    ("grad_accum", False, "want a whole number, got False"),
    ("lr", True, "want a finite number, got True"),
  ],
)
def test_values_that_make_no_sense(path, value, wanted):
  with pytest.raises(UserError, match=rf"config\.{path}.*{wanted}"):
    build.check(_made(path, value))


def test_help_has_the_bounds(capsys):
  with pytest.raises(SystemExit):
    train.main(["--help"])
  said = capsys.readouterr().out
  assert "  lora.rank: a number of at least 1, at most 4096" in said
  assert "  remat: one of full, attention, mlp, dots, none" in said
  assert "log.tensorboard: " not in said  # any of its type


_ANY = st.one_of(
  st.integers(),
  st.integers(-3, 5),
  st.floats(),
  st.text(max_size=20),
  st.booleans(),
  st.none(),
  st.lists(st.integers(), max_size=2),
)


@pytest.mark.slow
@settings(
  max_examples=3000,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  path=st.sampled_from(sorted(bounds.BOUNDS)), value=_ANY, text=st.booleans()
)
def test_any_value_is_taken_or_refused_in_one_line(path, value, text):
  try:
    made = _made(path, str(value) if text else value)
    build.check(made)
  except UserError as error:
    assert "\n" not in str(error)
    return
  held = config.flat_fields(made)[path]
  assert bounds.BOUNDS[path].holds(held)
  assert not isinstance(held, float) or math.isfinite(held)
