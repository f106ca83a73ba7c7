"""Inspecting pairs: what is counted, printed and put on the page."""

import json
import os
import re
import subprocess
import sys

import pytest

from data_gen.__main__ import main
from data_gen.inspect import marked
from data_gen.inspect_stats import (
  Pair,
  changed_share,
  duplicates,
  histogram,
  measure,
  substitutions,
)
from povid_jax.errors import UserError


def pair(chosen, rejected=None, id="a", **fields):
  rejected = () if rejected is None else (rejected,)
  fields = {"split": "", "picture_key": "p", "prompt": ("q",)} | fields
  return Pair(id=id, chosen=(chosen,), rejected=rejected, **fields)


@pytest.mark.parametrize(
  ("before", "after", "changes", "share"),
  [
    ("a red bus", "a blue bus", [("red", "blue")], 1 / 3),
    ("a cup", "a cup and fork", [("", "and fork")], 1 / 2),
    ("a big cup", "a cup", [("big", "")], 0),
    ("one two", "three", [("one two", "three")], 1),
    ("same", "same", [], 0),
  ],
)
def test_what_was_changed(before, after, changes, share):
  assert substitutions(before, after) == changes
  assert changed_share(before, after) == pytest.approx(share)


@pytest.mark.parametrize(
  ("chosen", "rejected", "want"),
  [
    ("a red bus, a cat", "a blue bus, a dog",
     "a [-red-] {+blue+} bus, a [-cat-] {+dog+}"),
    ("a cup.", "a cup and a fork.", "a cup {+and a fork+}."),
    ("a big cup.", "a cup.", "a [-big-] cup."),
  ],
)  # fmt: skip
def test_marked_text(chosen, rejected, want):
  assert marked(chosen, rejected) == want


def test_histogram_bins():
  got = histogram("x", [1, 2, 2, 4, 30], [0, 1, 2, 3, 5, 10, 20])
  assert got.labels == ("1", "2", "3-5", "5-10", "10-20", "20+")
  assert got.counts == (1, 2, 1, 0, 0, 1)
  assert got.mean == 7.8
  assert histogram("x", [], [0, 1]) is None


def test_duplicates():
  pairs = [
    pair("x", "y"),
    pair("x", "y"),
    pair("x", "z", id="b"),
    pair("x", "y", id="c", picture_key="other"),
    pair("w", "w", id="d"),
  ]
  assert [count for _, count in duplicates(pairs)] == [1, 2, 1, 1]


def test_the_share_that_was_left_out():
  stats = measure([pair("x", "y")] * 3, 3, [("refusal", 1)])
  assert stats.tables["left out (25.0% of all)"] == [("refusal", 1)]


@pytest.fixture
def source(tmp_path, photos):
  photos.make_images(tmp_path / "images", 2)
  rows = [
    photos.row("first", "0.png", "A red cup.", "A blue cup.")
    | {"injector": "rules/1", "edits": [{"kind": "attribute"}]},
    photos.row("second", "1.jpg", "A cat.", "A cat and a <dog>.")
    | {"injector": "<b>", "edits": [{"kind": "<i>"}], "category": "<u>"},
    photos.row("third", None, "A poem.", None),
  ]
  photos.write_rows(tmp_path / "pairs.jsonl", rows)
  lost = [{"id": "x", "reason": "too_similar"}] * 2
  photos.write_rows(tmp_path / "rejected.jsonl", lost)
  return tmp_path


def inspect(capsys, *argv):
  assert main(["inspect", *map(str, argv)]) == 0
  return capsys.readouterr().out


def test_printed_for_a_json_file(source, capsys):
  out = inspect(capsys, source / "pairs.jsonl")
  for line in (
    r"^ +2  pairs$",
    r"^ +1  without a rejected answer$",
    r"^ +1  attribute$",
    r"^left out \(40.0% of all\)$",
    r"^ +2  rejected.jsonl: too_similar$",
    r"^ +1  red -> blue$",
    r"^A \[-red-\] \{\+blue\+\} cup\.$",
    r"^chosen, words \(mean 2.333\)$",
  ):
    assert re.search(line, out, re.M), line


def test_printed_for_a_folder(source, capsys):
  argv = ["write", f"--pairs={source}/pairs.jsonl", "--store-noisy"]
  argv += [f"--image-dir={source}/images", f"--out={source}/out"]
  assert main([*argv, "--workers=1"]) == 0
  out = inspect(capsys, source / "out", "--samples=1", "--limit=2")
  assert "2 of 3 records, evenly spread" in out
  assert re.search(r"^ +2  train$", out, re.M)
  assert out.count("\n--- ") == 1


def test_the_page_holds_everything_it_needs(source, capsys):
  page = source / "page.html"
  pairs, images = source / "pairs.jsonl", source / "images"
  out = inspect(capsys, pairs, "--image-dir", images, "--html", page)
  assert f"page: {page}" in out
  text = page.read_text()
  links = re.findall(r'(?:src|href)="([^"]{0,12})', text)
  # Two pictures with their twins, and a strip for each overflow.
  assert len(links) == 2 * 2 + 2 * 11
  assert all(link.startswith("data:image/") for link in links)
  assert 'A <mark class="good">red</mark> cup.' in text
  assert 'A <mark class="bad">blue</mark> cup.' in text
  assert "&lt;dog&gt;" in text
  assert not re.search("<(dog|b|i|u)>", text)
  assert text.count("<article") == 3 and 'data-edit="attribute"' in text
  # Without the script the tools stay hidden and the pairs do not.
  assert '<form class="tools" hidden>' in text
  assert '<article class="pair" hidden' not in text


def test_contexts_weights_and_more_answers_are_shown(source, photos, capsys):
  """Of samples and of the records made of them alike."""
  row = photos.row("c", "0.png", "A red cup.", "A blue cup.")
  turns = photos.row("c", "0.png", "", "A red knife.")["rejected_conversations"]
  rows = [
    row
    | {
      "context": "So <far>.",
      "end_scored": False,
      "rejected_weight": 0.5,
      "more_rejected": [{"conversations": turns, "weight": 1.0}],
    },
    photos.row("d", "0.png", "Yes.", "No."),
  ]
  photos.write_rows(source / "pairs.jsonl", rows)
  argv = ["write", f"--pairs={source}/pairs.jsonl", f"--out={source}/out"]
  argv += [f"--image-dir={source}/images", "--workers=1"]
  assert main(argv) == 0
  capsys.readouterr()
  page = source / "page.html"
  for held in ("pairs.jsonl", "out"):
    argv = [source / held, f"--html={page}"]
    out = inspect(capsys, *argv)
    for line in (
      r"^ +1  after a context$",
      r"^ +1  several rejected answers$",
      r"^ +1  with weights$",
      r"^So <far>\. \| \(weight 0\.5\) A \[-red-\] \{\+blue\+\} cup\. \.\.\.$",
      r"^So <far>\. \| A red \[-cup-\] \{\+knife\+\}\. \.\.\.$",
      r"^\[-Yes-\] \{\+No\+\}\.$",
    ):
      assert re.search(line, out, re.M), line
    text = page.read_text()
    grey = '<span class="soft">So &lt;far&gt;.</span> '
    assert text.count(grey) == 3
    assert text.count('<span class="soft">(goes on)</span>') == 3
    assert "rejected: every token weighs 0.5" in text
    heavy = '<mark class="all">A <mark class="bad">blue</mark> cup.</mark>'
    assert f"{grey}{heavy}" in text and text.count('<mark class="all">') == 2
    assert 'A red <mark class="bad">knife</mark>.' in text


def test_a_page_over_bad_pictures(source, capsys):
  (source / "images/1.jpg").write_bytes(b"not a picture")
  page = source / "page.html"
  pairs, images = source / "pairs.jsonl", source / "images"
  inspect(capsys, pairs, f"--image-dir={images}", f"--html={page}")
  assert "not a picture" in page.read_text()


def test_a_terminal_that_is_not_utf_8(source, photos):
  row = photos.row("é", None, "A 🐈.", "A 🐕.")
  photos.write_rows(source / "pairs.jsonl", [row])
  argv = [sys.executable, "-m", "data_gen", "inspect"]
  done = subprocess.run(
    [*argv, str(source / "pairs.jsonl")],
    capture_output=True,
    env=os.environ | {"PYTHONIOENCODING": "ascii"},
  )
  assert done.returncode == 0, done.stderr
  assert b"A [-?-] {+?+}." in done.stdout and b" 1 ###" in done.stdout


def test_it_is_named_what_cannot_be_read(source):
  for argv, message in [
    ([source / "gone.json"], "gone.json: No such file"),
    ([source / "images"], "folder without tables"),
    ([source / "pairs.jsonl", "--image-dir=/nowhere"], "no such folder"),
  ]:
    with pytest.raises(UserError, match=message):
      main(["inspect", *map(str, argv)])
  (source / "empty.json").write_text(json.dumps([]))
  with pytest.raises(UserError, match="holds no samples"):
    main(["inspect", str(source / "empty.json")])
