"""Attention on pictures, end to end and by hand."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from povid_jax.eval import __main__ as command
from povid_jax.eval.benchmarks import attention
from povid_jax.generate import answering

QUESTIONS = [
  {"question_id": "q/1", "image": "0.png", "text": "what is in the picture?"},
  {"question_id": 2, "image": "1.png", "text": "<image>\ndescribe this image."},
]


def test_attention_end_to_end(folder: Path, tmp_path: Path) -> None:
  data, out = tmp_path / "data", tmp_path / "out"
  (data / "attention").mkdir(parents=True)
  questions = data / "attention" / "questions.jsonl"
  questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
  argv = [
    f"--checkpoint={folder}/model",
    "--benchmarks=attention",
    f"--data={data}",
    f"--images={folder}/images",
    f"--out={out}",
    "--max-new-tokens=6",
    "--resamples=10",
    "--heat-maps=1",
  ]
  assert command.main(argv) == 0
  rows = json.loads((out / "results.json").read_text())["results"]
  found = {row["metric"]: row["value"] for row in rows}
  layers = [found[f"layer_{i:02d}/image_share"] for i in range(2)]
  assert found["image_share"] == pytest.approx(np.mean(layers))
  assert 0 < found["image_share"] < 1
  assert 0 < found["uniform"] < 1
  names = sorted(path.name for path in (out / "attention").iterdir())
  assert names == ["heads.json", "q_1.png"]
  heads = json.loads((out / "attention" / "heads.json").read_text())
  assert np.shape(heads["2"]) == (2, 4)
  with Image.open(out / "attention" / "q_1.png") as picture:
    assert picture.width > 300
  before = (out / "results.json").read_text()
  assert command.main(argv) == 0  # answers are read back, nothing else changes
  assert (out / "results.json").read_text() == before
  assert len(list((out / "answers").glob("attention-*.jsonl"))) == 1


def test_attention_of_a_given_answer_does_not_see_padding(
  base: answering.Policy, folder: Path
) -> None:
  """An even model: all weights equal, so shares can be counted."""
  zero = {
    path: jnp.zeros_like(leaf) if "q_proj" in path else leaf
    for path, leaf in base.params.items()
  }
  even = dataclasses.replace(base, params=zero)
  question = attention.Question(
    1, (folder / "images/0.png",), "what is in the picture?", {"image": "0"}
  )
  seen = attention._look(attention._looker(), even, question, "a cat sits.")
  assert seen.heads == pytest.approx(seen.uniform, abs=1e-5)
  count, width = seen.weights.shape
  in_sight = seen.start + np.arange(count)
  for row, number in enumerate(in_sight):
    expected = np.where(np.arange(width) < number, 1 / number, 0)
    np.testing.assert_allclose(seen.weights[row], expected, atol=1e-6)
  assert seen.is_image.sum() == base.config.image_tokens
