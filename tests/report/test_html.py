"""Pieces of pages: escaped text, pictures inside, marked differences."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from povid_jax.report import html


@pytest.mark.parametrize(
  ("before", "after", "left", "right"),
  [
    ("a red bus", "a blue bus", ["red"], ["blue"]),
    ("two red cats.", "three blue cats.", ["two red"], ["three blue"]),
    ("A man sits.", "A man sits near a dog.", [], ["near a dog"]),
    ("same", "same", [], []),
    ("", "all new", [], ["all new"]),
    ("a red chair.", "a chair by a dog.", ["red"], ["by a dog"]),
    ("the man's hat", "the woman's hat", ["man's"], ["woman's"]),
  ],
)
def test_changed_words(before, after, left, right):
  spans = html.word_spans(before, after)
  changed = [[t.strip() for t, new in side if new] for side in spans]
  assert changed == [left, right]


@given(st.text(), st.text())
def test_no_text_is_lost(before, after):
  left, right = html.word_spans(before, after)
  assert "".join(text for text, _ in left) == before
  assert "".join(text for text, _ in right) == after
  same = ["".join(t for t, new in side if not new) for side in (left, right)]
  assert "".join(same[0].split()) == "".join(same[1].split())


def test_markup_in_a_text_stays_text():
  left, right = html.word_diff("<script>a</script>", "<b>&\"'")
  for side in (left, right):
    rest = side.replace('<mark class="good">', "").replace("</mark>", "")
    assert "<" not in rest.replace('<mark class="bad">', "")


def test_thumbnail_fits_and_keeps_its_shape():
  uri = html.thumbnail(np.zeros((200, 800, 3), np.uint8), side=100)
  head, data = uri.split(",")
  assert head == "data:image/webp;base64"
  assert Image.open(io.BytesIO(base64.b64decode(data))).size == (100, 25)


def test_numbers_are_set_to_the_right_with_their_header():
  table = html.table(["name", "count"], [["a", 1], ["b", 2.5]])
  assert '<th>name</th><th class="number">count</th>' in table
  assert '<td>b</td><td class="number">2.5</td>' in table
  assert "<thead>" not in html.table([], [["a", 1]])


def test_a_page_needs_no_other_file():
  page = html.page("a <title>", html.table(["x"], [[1], ["<"]]))
  assert "<title>a &lt;title&gt;</title>" in page
  assert "<td>&lt;</td>" in page and '<td class="number">1</td>' in page
  assert "http" not in page and "src=" not in page
