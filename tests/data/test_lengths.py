"""Bucket lengths, and samples that do not fit or cannot be used."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from povid_jax.data import lengths
from povid_jax.data.layout import Square
from povid_jax.data.lengths import Lengths, TextSpec, assign, choose_buckets
from povid_jax.data.records import RecordSource
from povid_jax.data.tokenizer import load_tokenizer
from povid_jax.errors import UserError
from tests import small_tokenizer, small_world

SQUARE = Square(28, 4)

TABLE = [
  ([1, 1, 1, 9], 2, 4, (4, 12)),
  ([1, 1, 1, 9], 1, 4, (12,)),
  ([5, 6, 7], 3, 8, (8,)),
  ([8, 16, 24], 9, 8, (8, 16, 24)),
  # one long sample does not take a bucket from the many
  ([10] * 50 + [20] * 50 + [30], 2, 10, (10, 30)),
  ([10] * 5 + [20] * 50 + [30], 2, 10, (20, 30)),
]


@pytest.mark.parametrize(("given", "count", "multiple", "want"), TABLE)
def test_buckets(given, count, multiple, want):
  assert choose_buckets(given, count, multiple) == want


def _cost(values, buckets):
  return sum(min(b for b in buckets if b >= v) for v in values)


@settings(deadline=None, max_examples=60)
@given(
  st.lists(st.integers(1, 40), min_size=1, max_size=12),
  st.integers(1, 4),
  st.integers(1, 5),
)
def test_no_other_buckets_pad_less(values, count, multiple):
  found = choose_buckets(values, count, multiple)
  assert len(found) <= count and list(found) == sorted(set(found))
  assert all(b % multiple == 0 for b in found)
  sizes = sorted({-(-v // multiple) * multiple for v in values})
  best = min(
    _cost(values, chosen)
    for k in range(1, count + 1)
    for chosen in itertools.combinations(sizes, min(k, len(sizes)))
    if chosen[-1] == sizes[-1]
  )
  assert _cost(values, found) == best


def _lengths(prefix, branch, scored):
  return Lengths(
    *map(np.array, (prefix, branch, scored, *6 * [[1] * len(prefix)]))
  )


def test_assign():
  measured = _lengths([3, 7, 9, 30], [2, 6, 2, 2], [4, 7, 3, 4])
  found = assign(measured, count=2, multiple=4, num_branches=2, max_prefix=12)
  assert found.prefix == (4, 12) and found.branch == (4, 8)
  np.testing.assert_array_equal(found.kept, [0, 1, 2])
  np.testing.assert_array_equal(found.of[:3], [[0, 0], [1, 1], [1, 0]])
  rows = (4 + 2 * 4) + (12 + 2 * 8) + (12 + 2 * 4)
  assert found.padding == pytest.approx(1 - (3 + 4 + 7 + 7 + 9 + 3) / rows)
  with pytest.raises(
    UserError, match="every sample is too long: the shortest has"
  ):
    assign(measured, count=1, multiple=4, num_branches=2, max_branch=1)
  # prefix and branch of a sample together
  found = assign(
    measured, count=1, multiple=4, num_branches=2, max_positions=13
  )
  np.testing.assert_array_equal(found.kept, [0, 1, 2])
  with pytest.raises(UserError, match="shortest has 5 tokens.*4 positions"):
    assign(measured, count=1, multiple=4, num_branches=2, max_positions=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  root = tmp_path_factory.mktemp("lengths")
  return RecordSource(small_world.data_folder(root, 6))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp("words")
  return load_tokenizer(small_tokenizer.write(folder / "tokenizer"))


def test_measured_lengths_are_those_of_the_tokens(source, tokenizer):
  pairs, single = TextSpec("short", SQUARE, 2), TextSpec("short", SQUARE, 1)
  measured = lengths.measure(source, tokenizer, pairs)
  for i in range(len(source)):
    encoded = lengths.encode_record(source[i], tokenizer, pairs)
    sizes = [len(ids) for ids in encoded.branch_ids]
    got = [int(column[i]) for column in dataclasses.astuple(measured)]
    lengths_of = [len(encoded.prefix_ids), max(sizes), sum(sizes)]
    assert got == [*lengths_of, 1, SQUARE.tokens, 1, 2, 0, 1]
  chosen = lengths.measure(source, tokenizer, single, limit=2)
  assert len(chosen.prefix) == 2
  np.testing.assert_array_equal(chosen.branch, chosen.scored)


def _report(source, tmp_path, policy):
  n = len(source)
  measured = _lengths([9, *[3] * (n - 2), 50], [2] * n, [4] * n)
  found = assign(measured, count=1, multiple=1, num_branches=2, max_prefix=5)
  path = tmp_path / "too_long.tsv"
  lengths.report_too_long(source, measured, found, str(path), policy)
  return path


def test_too_long_samples_are_listed(source, tmp_path, capsys):
  names = source[0].id, source[len(source) - 1].id
  path = _report(source, tmp_path, "drop")
  assert path.read_text().splitlines() == [
    f"{names[0]}\tprefix 9\tbranch 2",
    f"{names[1]}\tprefix 50\tbranch 2",
  ]
  said = capsys.readouterr().out
  assert "2 sample(s)" in said and f"{names[0]!r} with 9 + 2 tokens" in said
  path.unlink()
  with pytest.raises(UserError, match="set data.on_too_long=drop"):
    _report(source, tmp_path, "refuse")
  assert len(path.read_text().splitlines()) == 2


BAD = {
  "no rejected answer": ({"rejected": ()}, "has no rejected answer"),
  "no marker": ({"prompt_turns": ("What?",)}, "1 image.* and 0 <image>"),
  "no picture": ({"images": ()}, "0 image.* and 1 <image>"),
  "turns": ({"prompt_turns": ("<image>a", "b")}, "want one that ends with"),
}


@pytest.mark.parametrize("case", BAD)
def test_records_that_cannot_be_used(case, tokenizer, tmp_path):
  fields, message = BAD[case]
  made = [small_world.record(0), small_world.record(1, **fields)]
  source = RecordSource(small_world.data_folder(tmp_path, made, shards=1))
  spec = TextSpec("short", SQUARE, 2)
  with pytest.raises(UserError, match=f"record 'r1'.*{message}"):
    lengths.measure(source, tokenizer, spec)
  bad = []
  measured = lengths.measure(
    source, tokenizer, spec, on_bad=lambda i, error: bad.append((i, str(error)))
  )
  assert [i for i, _ in bad] == [1] and "'r1'" in bad[0][1]
  found = assign(measured, count=1, multiple=4, num_branches=2)
  np.testing.assert_array_equal(found.kept, [0])
  # what cannot be used is not called too long as well
  path = tmp_path / "long.tsv"
  lengths.report_too_long(source, measured, found, str(path), "refuse")
  assert not path.exists()
