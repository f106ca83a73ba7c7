"""Splits and shards: by picture, complete, the same whatever the order."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from data_gen import shards
from data_gen.encode import Options
from povid_jax.data.pairs import Sample
from povid_jax.data.picture import Picture

NAMES = "abcdefgh"
# Two names may well hold the same picture.
CONTENTS = st.fixed_dictionaries(
  {Picture(name): st.integers(0, 5).map(lambda i: bytes([i])) for name in NAMES}
)
SAMPLES = st.lists(
  st.lists(st.sampled_from(NAMES), max_size=3).map(tuple), max_size=30
).map(
  lambda rows: [
    Sample(id=f"s{i}", images=names, turns=("q", "a"))
    for i, names in enumerate(rows)
  ]
)


def options(**changes) -> Options:
  return Options("pairs.jsonl", "images", **changes)


@given(SAMPLES, CONTENTS, st.sampled_from([0.1, 0.5, 0.9]))
def test_no_picture_in_two_splits(samples, contents, fraction):
  parts = shards.split(samples, options(val_fraction=fraction), contents)
  seen = {
    name: {contents[image] for sample in part for image in sample.images}
    for name, part in parts.items()
  }
  assert not seen.get("train", set()) & seen.get("validation", set())
  assert sorted(s.id for part in parts.values() for s in part) == sorted(
    s.id for s in samples
  )


@given(SAMPLES, CONTENTS)
def test_the_split_does_not_depend_on_the_order(samples, contents):
  def held(rows):
    parts = shards.split(rows, options(val_fraction=0.5), contents)
    return {sample.id for sample in parts.get("validation", ())}

  assert held(samples) == held(samples[::-1])


def test_the_split_has_about_the_wanted_size():
  samples = [Sample(f"s{i}", (), ("q", "a")) for i in range(4000)]
  parts = shards.split(samples, options(val_fraction=0.2), {})
  assert 720 <= len(parts["validation"]) <= 880  # +-3 standard deviations


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("fraction", "held"), [(0.01, 1), (0.99, 2)])
def test_a_few_pictures_still_make_two_splits(seed, fraction, held):
  samples = [Sample(f"s{i}", (), ("q", "a")) for i in range(3)]
  chosen = options(val_fraction=fraction, seed=seed)
  parts = shards.split(samples, chosen, {})
  assert len(parts["validation"]) == held


@pytest.mark.parametrize(
  ("count", "total", "wanted", "num"),
  [
    (17_000, 17_000, None, 9),
    (100, 100, None, 8),
    (3, 3, None, 3),
    (3, 3, 8, 3),
    (200, 1_000, 8, 2),
    (1, 1_000, 8, 1),
  ],
)
def test_number_of_shards(count, total, wanted, num):
  assert shards._num_shards(count, total, wanted) == num


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_shards_hold_all_samples_in_order(tmp_path, count):
  (tmp_path / "p.jsonl").touch()
  samples = [Sample(f"s{i}", (), ("q", "a")) for i in range(23)]
  plan = shards.make_plan(
    samples, [], Options(str(tmp_path / "p.jsonl"), "", shards=count), {}
  )
  sizes = [len(shard.samples) for shard in plan.shards]
  assert [s for shard in plan.shards for s in shard.samples] == samples
  assert max(sizes) - min(sizes) <= 1
  last = f"povid-train.tfrecord-{count - 1:05d}-of-{count:05d}"
  assert plan.shards[-1].name == last
