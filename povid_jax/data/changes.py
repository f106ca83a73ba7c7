"""Which tokens of two answers differ: a diff of their words."""

import difflib
from collections.abc import Sequence

import numpy as np

from povid_jax.data.tokenizer import Tokenizer


def changed(
  one: Sequence[int],
  other: Sequence[int],
  tokenizer: Tokenizer,
  ends: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
  """Marks the tokens of words that only one of two answers has.

  Words are separated by blanks; either all tokens of a word are marked or none.
  The token that ends an answer is no part of a word.

  Args:
    one, other: token ids.
    ends: ids at which an answer is over.

  Returns:
    Two arrays bool[len(one)] and bool[len(other)].
  """
  texts = [tokenizer.decode(ids).split() for ids in (one, other)]
  # with autojunk, difflib ignores the frequent words of a long answer
  matcher = difflib.SequenceMatcher(None, *texts, autojunk=False)
  found: tuple[set[int], set[int]] = (set(), set())
  for tag, a, b, c, d in matcher.get_opcodes():
    if tag != "equal":
      found[0].update(range(a, b))
      found[1].update(range(c, d))
  marks = [
    np.array(
      [
        token not in ends and word in new
        for token, word in zip(ids, _words(ids, tokenizer), strict=True)
      ],
      bool,
    )
    for ids, new in zip((one, other), found, strict=True)
  ]
  return marks[0], marks[1]


def _words(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
  """The number of the word that each token belongs to, -1 before the first."""
  # Tokens have no offsets in SentencePiece: the words so far tell.
  return [
    len(tokenizer.decode(ids[: k + 1]).split()) - 1 for k in range(len(ids))
  ]
