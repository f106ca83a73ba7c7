"""kill -9 in every command that works for long: equal results, nothing left.

Half of the kills come at random moments, half right before or after a rename:
there a checkpoint, a folder or a file gets its name.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from povid_jax import convert, files
from tests import small_world
from tests.forks import alive
from tests.whole import small_run

KILLS = 10
PICTURES = 24
DONE = (0, 4)  # 4: `sample` found no pair among a random model's answers
TIMED = ("_CHECKPOINT_METADATA", "commit_success.txt")  # the time is in them


class Job(NamedTuple):
  """A command, and what of its output must be equal.

  Attributes:
    module: whose `main` it is.
    argv: its arguments, for an output folder.
    result: what is compared, from an output folder.
  """

  module: str
  argv: Callable[[Path], list[Any]]
  result: Callable[[Path], Any]


def _bytes(*names: str) -> Callable[[Path], Any]:
  """Digests of files, or of everything below a folder."""

  def result(out: Path) -> dict[str, str]:
    found = {}
    for name in names:
      top = out / name
      files = sorted(top.rglob("*")) if top.is_dir() else [top]
      for file in filter(Path.is_file, files):
        if file.name in TIMED:
          continue
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        found[str(file.relative_to(out))] = digest
    assert found
    return found

  return result


def _candidates(out: Path) -> Any:
  """The answers that were sampled, whatever came between them."""
  rows = list(files.json_objects(out / "journal.jsonl"))
  kept = [row for row in rows if row["event"] == "candidate"]
  for row in kept:
    row.pop("time", None)
  return sorted(map(json.dumps, kept)), (out / "pairs.jsonl").read_text()


def _losses(out: Path) -> Any:
  rows = list(files.json_objects(out / "run/metrics/train.jsonl"))
  names = ("step", "loss", "grad_norm", "param_norm", "logps/noise")
  return [[row[name] for name in names] for row in rows]


@pytest.fixture(scope="module")
def scenes(world: Path) -> Path:
  """Beside the model and the records: pairs, questions, a foreign model."""
  turns = lambda said: [
    {"from": "human", "value": "<image>\nDescribe this image in detail."},
    {"from": "gpt", "value": said},
  ]
  rows, asked = [], []
  for i in range(PICTURES):
    name = f"COCO_val2014_{i:012d}.jpg"
    small_world.picture(i).save(world / name)
    said = f"A brown dog sits on a red chair beside {i + 2} blue cups."
    other = turns(said.replace("dog", "cat"))
    row = {"id": f"p{i}", "image": name, "conversations": turns(said)}
    rows.append({**row, "rejected_conversations": other})
    asked.append(
      {"question_id": i, "image": name, "text": f"Is there a {said[8:11]}?",
       "label": "yes"}
    )  # fmt: skip
  (world / "pairs.json").write_text(json.dumps(rows))
  plain = [{k: v for k, v in r.items() if k[:3] != "rej"} for r in rows]
  many = [{**row, "id": f"i{n}"} for n, row in enumerate(plain * 20)]
  (world / "many.json").write_text(json.dumps(many))
  (world / "pope").mkdir()
  for split in ("random", "popular", "adversarial"):
    lines = "".join(json.dumps(row) + "\n" for row in asked)
    (world / f"pope/coco_pope_{split}.json").write_text(lines)
  document = {
    "images": [{"id": i, "file_name": r["image"]} for i, r in enumerate(rows)],
    "categories": [{"id": 1, "name": "dog"}],
    "annotations": [{"image_id": 0, "category_id": 1}],
  }
  (world / "instances.json").write_text(json.dumps(document))
  convert.main(["to-hf", str(world / "model"), str(world / "hf")])
  return world


def _jobs(world: Path) -> dict[str, Job]:
  def train(**fields: Any) -> Job:
    config = small_run.config(world, steps=20, checkpoint__every=1, **fields)
    name = "_".join(["config", *map(str, fields.values())])
    path = small_world.config_file(world / f"{name}.py", config)
    argv = lambda out: [f"--config={path}", f"--workdir={out}/run"]
    return Job("povid_jax.train", argv, _losses)

  pairs, model = world / "pairs.json", world / "model"
  return {
    "train": train(),
    "reference pass": train(reference="cached"),
    "inject": Job(
      "data_gen.__main__",
      lambda out: ["inject", f"--input={world}/many.json",
                   f"--out={out}/pairs.jsonl"],
      _bytes("pairs.jsonl", "rejected.jsonl"),
    ),
    "sample": Job(
      "data_gen.__main__",
      lambda out: ["sample", f"--checkpoint={model}", f"--input={pairs}",
                   f"--image-dir={world}", f"--out={out}/pairs.jsonl",
                   f"--annotations={world}/instances.json", "--candidates=3",
                   "--max-new-tokens=16", "--chunk=4", "--batch-size=12"],
      _candidates,
    ),
    "write": Job(
      "data_gen.__main__",
      lambda out: ["write", f"--pairs={pairs}", f"--image-dir={world}",
                   f"--out={out}/records", "--workers=1", "--store-noisy",
                   "--shards=4"],
      _bytes("records"),
    ),
    "eval": Job(
      "povid_jax.eval.__main__",
      lambda out: [f"--checkpoint={model}", "--benchmarks=pope",
                   f"--data={world}/pope", f"--images={world}",
                   f"--out={out}/eval", "--batch-size=1", "--resamples=50",
                   "--max-new-tokens=8"],
      _bytes("eval/answers", "eval/verdicts.jsonl"),
    ),
    "convert": Job(
      "povid_jax.convert",
      lambda out: ["from-torch", world / "hf", f"{out}/model"],
      _bytes("model"),
    ),
  }  # fmt: skip


JOBS = (
  "train", "reference pass", "inject", "sample", "write", "eval", "convert"
)  # fmt: skip


def _left(out: Path) -> list[str]:
  """What no finished command leaves: temporary and half-written things."""
  signs = ("tmp", ".part", ".new")
  return [
    str(path.relative_to(out))
    for path in out.rglob("*")
    if any(sign in path.name for sign in signs)
  ]


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_killed_and_started_again(name, scenes, compiled_once, tmp_path):
  job, draw = _jobs(scenes)[name], random.Random(name)
  with small_run.forks(compiled_once, tmp_path / "renames") as forks:
    (whole := tmp_path / "whole").mkdir()
    for _ in ("compiled", "timed"):
      shutil.rmtree(whole)
      whole.mkdir()
      began = time.monotonic()
      forks.start(*job.argv(whole), module=job.module, told=0)
      assert forks.wait() in DONE, forks.stderr
    took, renames = time.monotonic() - began, forks.renames
    want = job.result(whole)
    killed = at_renames = finished = 0
    out = tmp_path / "out"
    out.mkdir()
    while killed < KILLS:
      aim = killed % 2 and renames
      told = draw.choice((1, -1)) * draw.randint(1, max(1, renames))
      if aim and finished == 0:  # a run that goes on has fewer before it
        told = draw.choice((1, -1)) * draw.randint(1, 1 + renames // 2)
      pid = forks.start(
        *job.argv(out), module=job.module, told=told if aim else None
      )
      end = time.monotonic() + draw.uniform(0.1, 0.9) * took
      while not aim and alive(pid) and time.monotonic() < end:
        time.sleep(0.002)
      if not aim:
        with contextlib.suppress(ProcessLookupError):
          os.kill(pid, signal.SIGKILL)
      code = forks.wait()
      assert code in (*DONE, -signal.SIGKILL), forks.stderr
      if code < 0:
        killed += 1
        at_renames += bool(aim)
        continue
      finished += 1  # all was done before the kill: once more from the start
      assert job.result(out) == want
      assert not _left(out)
      shutil.rmtree(out)
      out.mkdir()
    forks.start(*job.argv(out), module=job.module)
    assert forks.wait() in DONE, forks.stderr
    assert job.result(out) == want
    assert not _left(out)
  print(
    f"{name}: {took:.1f} s alone, {renames} renames, {killed} kills "
    f"({at_renames} at a rename), equal; {finished + 1} finished runs"
  )
