"""How well a classifier separates rejected from chosen answers without a
picture.

If the text alone separates them, a model learns the style of the injector
instead of looking at the picture. A naive Bayes classifier over words and pairs
of words says how
much of that there is: 50% is chance, beyond 65% the pairs teach style.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[.,;:!?]")
_FOLDS = 5
_AT_LEAST = 20  # pairs; of fewer nothing can be said
_SMOOTHING = 0.5


def features(text: str) -> Counter:
  """Words and neighbouring words of a text, each counted once."""
  words = _WORD.findall(text.lower())
  return Counter(set(words) | set(zip(words, words[1:], strict=False)))


def accuracy(
  pairs: Sequence[tuple[str, str, str]],
) -> tuple[float, float] | None:
  """Share of answers that the classifier puts on the right side.

  Cross-validated in five parts; all pairs of one picture are in one part, so
  that nothing is known from the picture's other pairs. Each answer is judged
  by itself, as chosen or rejected.

  Args:
    pairs: (key of the picture, chosen, rejected).

  Returns:
    (accuracy, standard error), None for fewer than 20 pairs.
  """
  if len(pairs) < _AT_LEAST:
    return None
  folds = np.array([zlib.crc32(key.encode()) % _FOLDS for key, _, _ in pairs])
  read = [(features(left), features(right)) for _, left, right in pairs]
  right: list[float] = []
  for fold in range(_FOLDS):
    known = [read[i] for i in np.flatnonzero(folds != fold)]
    asked = [read[i] for i in np.flatnonzero(folds == fold)]
    if known and asked:
      weights = _learn(known)
      for chosen, rejected in asked:
        right += [_right(-_score(weights, chosen))]
        right += [_right(_score(weights, rejected))]
  if not right:
    return None
  mean = float(np.mean(right))
  return mean, math.sqrt(mean * (1 - mean) / len(right))


def _learn(known: Sequence[tuple[Counter, Counter]]) -> dict:
  """Feature -> log of how much more often it is in rejected answers."""
  chosen, rejected = Counter(), Counter()
  for one, other in known:
    chosen.update(one)
    rejected.update(other)
  return {
    feature: math.log(
      (rejected[feature] + _SMOOTHING) / (chosen[feature] + _SMOOTHING)
    )
    for feature in chosen.keys() | rejected.keys()
  }


def _right(score: float) -> float:
  """1 if a score is on the right side, 0.5 if it is undecided."""
  return 0.5 if score == 0 else float(score > 0)


def _score(weights: dict, text: Counter) -> float:
  """Above 0: rejected, below: chosen."""
  return sum(weights.get(feature, 0.0) for feature in text)
