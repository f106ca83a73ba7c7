"""What the tests of the benchmarks share."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from povid_jax.eval import __main__ as command
from povid_jax.eval import answers, protocol
from povid_jax.eval.protocol import Benchmark, Options
from tests.eval.judge_server import JudgeServer

Put = Callable[[str, Any], Path]


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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
  monkeypatch.setenv("OPENAI_API_KEY", "k")
  with JudgeServer(lambda body: "?") as server:
    yield server


@pytest.fixture
def evaluate(server: JudgeServer, tmp_path: Path) -> Callable[..., Any]:
  """Runs the command on given answers; (metric -> row, whole results)."""

  def run(name: str, answers: Path, *flags: str) -> tuple[dict, dict]:
    out = tmp_path / "out"
    given = [
      f"--benchmarks={name}",
      f"--answers={answers}",
      f"--data={tmp_path}/data",
      f"--out={out}",
      f"--judge-base-url={server.url}",
      "--resamples=20",
    ]
    if not any(flag.startswith("--judge-model") for flag in flags):
      given.append("--judge-model=a-judge")
    assert command.main([*given, *flags]) == 0
    results = json.loads((out / "results.json").read_text())
    return {row["metric"]: row for row in results["results"]}, results

  return run
