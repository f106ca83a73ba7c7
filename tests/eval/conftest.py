"""What the tests of the benchmarks share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from povid_jax.eval import answers, protocol
from povid_jax.eval.protocol import Benchmark, Options


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, Any], Path]:
  """Writes text, bytes, JSON or (for .jsonl) rows; returns the path."""

  def write(name: str, value: Any) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
      path.write_bytes(value)
    elif isinstance(value, str):
      path.write_text(value, encoding="utf-8")
    elif path.suffix == ".jsonl":
      path.write_text("".join(json.dumps(row) + "\n" for row in value))
    else:
      path.write_text(json.dumps(value))
    return path

  return write


@pytest.fixture
def run() -> Callable[..., dict[str, float]]:
  """Scores a folder's questions with rows of answers: metric -> value."""

  def score(
    benchmark: Benchmark,
    data: Path,
    rows: list[dict[str, Any]],
    missing: str | None = None,
    **options: Any,
  ) -> dict[str, float]:
    chosen = Options(**options)
    asked = benchmark.questions(data, chosen)
    matched = answers.match(asked, rows, benchmark, missing)
    scored = benchmark.score(data, matched.questions, matched.answers, chosen)
    totals = protocol.total(scored.units)
    return {
      name: float(np.asarray(value)[0])
      for name, value in benchmark.metrics(totals, chosen)
    }

  return score
