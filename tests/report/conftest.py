"""A small run folder of every kind of file that a page reads."""

import json

import numpy as np
import pytest
from PIL import Image

CAPTIONS = {
  # question id -> stage -> (text, hallucinated words)
  7: {
    "sft": ("A cat and a <b>dog</b>.", ["dog"]),
    "stage1": ("A cat and a cup.", ["cup"]),
    "stage2": ("A cat.", []),
  },
  8: {
    "sft": ("A boat.", []),
    "stage1": ("A boat.", []),
    "stage2": ("A boat and a kite.", ["kite"]),
  },
}
TRUTH = {7: ["cat", "chair"], 8: ["boat"]}


def write_json(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


def write_lines(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def verdict(key, text, wrong):
  found = [(word, text.index(word)) for word in wrong]
  return {
    "benchmark": "chair",
    "question_id": key,
    "unit": str(key),
    "correct": not wrong,
    "hallucinated": wrong,
    "missed": [name for name in TRUTH[key] if name not in text],
    "objects": TRUTH[key],
    "mentions": [
      {
        "object": word,
        "start": start,
        "end": start + len(word),
        "hallucinated": True,
      }
      for word, start in found
    ],
  }


def counts(text, wrong):
  return {
    "n": 1,
    "captions/wrong": bool(wrong),
    "mentions": 2,
    "mentions/wrong": len(wrong),
    "truth": 2,
    "truth/seen": 1,
    "words": len(text.split()),
  }


def write_evaluation(folder, stage):
  texts = {key: stages[stage] for key, stages in CAPTIONS.items()}
  rate = sum(bool(wrong) for _, wrong in texts.values()) / len(texts)
  result = {"benchmark": "chair", "metric": "CHAIRs", "value": rate, "n": 2}
  write_json(
    folder / "results.json",
    {
      "results": [{**result, "ci95": [0.0, 1.0]}],
      "settings": {"decoding": {"chair": {"temperature": 0.0}}},
    },
  )
  rows = [
    {"benchmark": "chair", "question_id": key, "text": text}
    for key, (text, _) in texts.items()
  ]
  rows.append({"benchmark": "pope", "question_id": 7, "text": "Yes"})
  write_lines(folder / "answers.jsonl", rows)
  write_lines(
    folder / "verdicts.jsonl",
    [verdict(key, *said) for key, said in texts.items()],
  )
  write_lines(
    folder / "counts.jsonl",
    [
      {"benchmark": "chair", "unit": str(key), "counts": counts(*said)}
      for key, said in texts.items()
    ],
  )


def write_log(folder, names, steps=30):
  rows = [
    {"step": step, **{name: step / steps for name in names}, "seconds": 0.5}
    for step in range(steps)
  ]
  rows[3]["loss"] = None  # it was not finite
  write_lines(folder / "metrics" / "train.jsonl", rows)


@pytest.fixture
def run_folder(tmp_path):
  """Two pictures, three stages, one split, one pair, one command."""
  root = tmp_path / "quickstart"
  images = root / "world" / "images" / "test"
  images.mkdir(parents=True)
  rng = np.random.default_rng(0)
  for key in CAPTIONS:
    pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / f"{key}.png")
  listed = [{"id": key, "file_name": f"test/{key}.png"} for key in CAPTIONS]
  write_json(
    root / "world" / "annotations" / "instances_test.json", {"images": listed}
  )
  for stage in ("sft", "stage1", "stage2"):
    write_evaluation(root / "eval" / stage / "balanced", stage)
  write_log(root / "sft", ["loss"])
  pair = ["loss", "margin/rejected", "accuracy/rejected", "drift/chosen"]
  write_log(root / "stage1", pair)
  write_log(root / "stage2", [*pair, "margin/noise", "accuracy/noise", "mfu"])
  config = {"lr": 0.25, "noise": {"step": 500, "overflow": "wrap"}}
  write_json(root / "stage2" / "config.json", config)
  write_json(
    root / "summary.json", {"seed": 3, "seconds": 65.2, "headline": "balanced"}
  )
  write_lines(
    root / "commands.jsonl",
    [{"title": "Go & see", "command": "python -m x --a=1 <b>", "seconds": 61}],
  )
  turns = lambda text: [
    {"from": "human", "value": "<image>\nDescribe it."},
    {"from": "gpt", "value": text},
  ]
  write_json(
    root / "pairs.json",
    [
      {
        "id": "a",
        "image": "test/7.png",
        "conversations": turns("A red cat."),
        "rejected_conversations": turns("A red dog."),
        "edits": [{"span": "dog", "original": "cat", "kind": "object"}],
        "context": "So & far.",
        "rejected_weight": 0.5,
      }
    ],
  )
  return root
