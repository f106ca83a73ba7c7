"""Where sentences end, on texts as models write them."""

import pytest

from data_gen.sampling import sentences

TEXTS = [
  (
    "A dog runs. A cat sleeps!  Who watches?",
    ["A dog runs.", "A cat sleeps!", "Who watches?"],
  ),
  (
    "Mr. Smith has 3.5 cats. He smiles",
    ["Mr. Smith has 3.5 cats.", "He smiles"],
  ),
  (
    'A sign says "Stop." A car waits (it is red.) There.',
    ['A sign says "Stop."', "A car waits (it is red.)", "There."],
  ),
  (
    "Objects, e.g. a cup, lie there... Many.",
    ["Objects, e.g. a cup, lie there...", "Many."],
  ),
  ("Things:\n1. A bus.\n2. A man.", ["Things:", "1. A bus.", "2. A man."]),
  ("By J. Doe. Plan A. Next.", ["By J. Doe.", "Plan A.", "Next."]),
  ("", []),
]


@pytest.mark.parametrize(("text", "want"), TEXTS)
def test_sentences(text, want):
  assert sentences.split(text) == want


def test_a_sentence_without_an_end_is_not_whole():
  assert sentences.first("A dog runs") == ("A dog runs", False)
  assert sentences.first(" A dog. ") == ("A dog.", True)
