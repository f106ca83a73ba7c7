"""CHAIR over noisy pictures; flags of the benchmarks that look inside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from povid_jax.errors import UserError
from povid_jax.eval import __main__ as command
from povid_jax.eval.benchmarks import noise_sweep
from povid_jax.eval.protocol import Options
from povid_jax.generate import answering
from tests.eval.inside.totals import values


def put_chair(data: Path, folder: Path) -> None:
  data.mkdir(parents=True)
  images = [{"id": i, "file_name": f"{i}.png"} for i in range(3)]
  objects = [
    {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 1, 1]}
    for i in range(3)
  ]
  categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
  captions = [{"id": i, "image_id": i, "caption": "a cat"} for i in range(3)]
  instances = {
    "images": images, "annotations": objects, "categories": categories
  }  # fmt: skip
  (data / "instances_val.json").write_text(json.dumps(instances))
  captions = {"images": images, "annotations": captions}
  (data / "captions_val.json").write_text(json.dumps(captions))
  (data / "images").symlink_to(folder / "images")


def test_noise_sweep_by_step(
  base: answering.Policy,
  folder: Path,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """Answers that a test gives: wrong for as many pictures as the step says."""
  put_chair(tmp_path / "chair", folder)
  asked = []

  def answer(policy, questions, how, out, noise) -> list[dict[str, str]]:
    asked.append((noise, out.name))
    wrong = 0 if noise is None else {500: 1, 999: 3}[noise.step]
    texts = ["a dog"] * wrong + ["a cat and a cat"] * (3 - wrong)
    return [{"text": text} for text in texts]

  monkeypatch.setattr(answering, "answer", answer)
  extra = {
    "noise_steps": noise_sweep.read_steps("999,clean,500"),
    "decoding": {},
  }
  options = Options(out=tmp_path / "out", seed=7, extra=extra)
  (tmp_path / "noise_sweep").mkdir()
  scored = noise_sweep.measure(base, tmp_path / "noise_sweep", options)
  found = values(noise_sweep.BENCHMARK, scored)
  steps = [name for name in found if name.endswith("/CHAIRs")]
  assert steps == ["clean/CHAIRs", "500/CHAIRs", "999/CHAIRs"]
  assert [found[name] for name in steps] == pytest.approx([0, 1 / 3, 1])
  assert found["500/CHAIRi"] == pytest.approx(1 / 5)
  noises = [noise for noise, _ in asked]
  assert noises[0] == answering.Noise(999, seed=7)
  assert noises[1] is None
  assert len({name for _, name in asked}) == 3  # no step reads another's
  assert len(scored.verdicts) == 9


def test_noise_sweep_really_asks_under_noise(
  base: answering.Policy,
  folder: Path,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  put_chair(tmp_path / "chair", folder)
  distort, steps = answering.noise_lib.distort, []

  def spy(image: np.ndarray, step: int, *rest: Any) -> np.ndarray:
    steps.append(step)
    return distort(image, step, *rest)

  monkeypatch.setattr(answering.noise_lib, "distort", spy)
  options = Options(
    out=tmp_path / "out",
    limit=2,
    extra={
      "noise_steps": (None, 999),
      "decoding": {"max_new_tokens": 3, "batch_size": 2},
    },
  )
  scored = noise_sweep.measure(base, tmp_path / "chair", options)
  assert "999/CHAIRs" in values(noise_sweep.BENCHMARK, scored)
  files = (tmp_path / "out" / "answers").glob("noise_sweep-*.jsonl")
  assert [len(path.read_text().splitlines()) for path in files] == [2, 2]
  assert steps == [999, 999]


STEPS: list[tuple[str, Any]] = [
  ("clean", (None,)),
  ("0,500", (0, 500)),
  (" 500 ,clean,500", (500, None)),
  ("1000", None),
  ("-1", None),
  ("5.5", None),
  ("noisy", None),
  ("", None),
]


@pytest.mark.parametrize(("value", "expected"), STEPS)
def test_noise_steps(value: str, expected: Any) -> None:
  if expected is None:
    with pytest.raises(UserError, match="--noise-steps"):
      noise_sweep.read_steps(value)
  else:
    assert noise_sweep.read_steps(value) == expected


def test_a_model_is_needed(tmp_path: Path) -> None:
  rows: Callable[[str], str] = lambda name: f"--benchmarks={name}"
  (tmp_path / "questions.jsonl").write_text("")
  for name in ("attention", "preference", "noise_sweep"):
    with pytest.raises(UserError, match="needs --checkpoint"):
      command.main(
        [
          f"--answers={tmp_path}/a.jsonl",
          rows(name),
          f"--data={tmp_path}",
          f"--out={tmp_path}/out",
        ]
      )
