"""What is read in a judge's reply: by the official rule, and cleanly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from povid_jax.eval.benchmarks import llava_bench, mmhal, mmvet

Put = Callable[[str, Any], Path]

# reply, rating, rating by the clean rule (None: left out)


RATINGS = [
  ("Fine.\nRating: 4, somewhat informative, no hallucination", 4, 4),
  ("rating: 0", 0, 0),
  ("RATING: 6", 6, 6),
  ("Rating: 3.5", 3, None),
  ("Rating: 10", 1, None),
  ("Rating: 7", 0, None),
  ("**Rating**: 5", 0, 5),
  ("Rating:5", 0, 5),
  ("Rating:  5", 0, 5),
  ("I would say Rating: 2 or Rating: 3", 0, 3),
  ("Rating: 2. In sum, Rating: 2.", 2, 2),
  ("It is good.", 0, None),
  ("", 0, None),
]


@pytest.mark.parametrize(("reply", "official", "clean"), RATINGS)
def test_mmhal_rating(reply: str, official: int, clean: int | None) -> None:
  assert mmhal.rating(reply) == official
  assert mmhal.clean_rating(reply) == clean


# reply, score (None: asked again), by the clean rule


GRADES = [
  ("0.5", 0.5, 0.5),
  ("1", 1.0, 1.0),
  ("0.0", 0.0, 0.0),
  ("0.5\n", 0.5, 0.5),
  ("0.3 | because", 0.3, 0.3),
  ("0.55", 0.55, 0.55),
  (" 1.0", None, 1.0),
  ("0.5.", None, 0.5),
  ("0.5\nbecause it", None, 0.5),
  ("1.1", None, None),
  ("-0.1", None, None),
  ("10 of 10, so 1.0", None, 1.0),
  ("0 objects are wrong. Correctness: 0.9 (of 1)", 0.0, 0.9),
  ("1 of 2 parts is right, so I give 0.5", 1.0, 0.5),
  ("**0.4**", None, 0.4),
  (".5", 0.5, 0.5),
  ("Score: 0.7", None, 0.7),
  ("nan", None, None),
  ("inf", None, None),
  ("right", None, None),
  ("", None, None),
]


@pytest.mark.parametrize(("reply", "official", "clean"), GRADES)
def test_mmvet_reading(reply: str, official: Any, clean: Any) -> None:
  assert mmvet.reading(reply) == official
  assert mmvet.clean_reading(reply) == clean


# reply, (reference, candidate), by the clean rule


PAIRS = [
  ("8 7\nAssistant 1 ...", (8, 7), (8, 7)),
  ("8,7\n", (8, 7), (8, 7)),
  ("8.5 9.5", (8.5, 9.5), (8.5, 9.5)),
  ("8, 7\nfine", (-1, -1), (8, 7)),
  ("8 7 \nfine", (-1, -1), (8, 7)),
  ("8 7\r\nfine", (8, 7), (8, 7)),
  ("\n8 7", (-1, -1), (8, 7)),
  ("8", (-1, -1), None),
  ("8 7 6", (-1, -1), (8, 7)),
  ("Assistant 1: 8, Assistant 2: 7", (-1, -1), (8, 7)),
  ("Both name 2 dogs.\n**8** 7", (-1, -1), (8, 7)),
  ("8/10, 7/10", (-1, -1), (8, 7)),
  ("In 2014 and 2015 ...", (-1, -1), None),
  (
    "Assistant 1 names 3 dogs. Assistant 1: 6\nAssistant 2: 9.5",
    (-1, -1),
    (6, 9.5),
  ),
  ("eight seven", (-1, -1), None),
  ("nan 7", (-1, -1), None),
  ("", (-1, -1), None),
]


@pytest.mark.parametrize(("reply", "official", "clean"), PAIRS)
def test_llava_bench_pair(reply: str, official: Any, clean: Any) -> None:
  assert llava_bench.pair(reply) == official
  assert llava_bench.clean_pair(reply) == clean
