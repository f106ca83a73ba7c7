"""`make smoke`: every command once, on a model that learns nothing.

  python -m benchmarks.smoke [--family next|onevision|qwen] [--out DIR]

From a checkpoint in transformers' layout on disk to a tuned one in the same
layout: data, both stages, evaluation, report, export. It shows that everything
is installed and works together; its numbers mean nothing.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from povid_jax import errors, files
from povid_jax.errors import UserError

# Most of the time is compilation, and nothing here needs fast code.
_QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
# A title, and the command below `python -m`. {out} is the folder of the run.
_TRAIN = (
  "--config.batch_size=4 --config.steps=3 --config.mesh.fsdp=1 "
  "--config.lora.rank=4 --config.log.every=1 --config.data.train={out}/records"
)
_EVAL = (
  "povid_jax.eval --benchmarks=chair,pope --data={out}/bench "
  "--image-dir={out}/scenes/images --max-new-tokens=8 --batch-size=16 "
  "--objects=annotated"
)
COMMANDS = (
  (
    "draw a world of 60 pictures with annotations",
    "data_gen scenes --out={out}/scenes --pretrain=8 --train=24 --val=4 "
    "--val-balanced=4 --test=16 --test-balanced=4 --workers=1",
  ),
  (
    "make a tokenizer from its texts",
    "data_gen tokenizer --input {out}/scenes/train.json "
    "--out={out}/tokenizer --vocab-size=320 --template={template}",
  ),
  (
    "a model of a few thousand parameters",
    "povid_jax.convert init {out}/random --preset={preset} "
    "--template={template} "
    "--tokenizer={out}/tokenizer",
  ),
  (
    "a checkpoint as transformers keeps it",
    "povid_jax.convert to-hf {out}/random {out}/hf",
  ),
  (
    "their checkpoint in",
    "povid_jax.convert from-torch {out}/hf {out}/model --template={template}",
  ),
  (
    "hallucinations into correct answers",
    "data_gen inject --input={out}/scenes/train.json --injector=rules "
    "--image-dir={out}/scenes/images --out={out}/pairs.jsonl "
    "--annotations={out}/scenes/annotations/instances_train.json "
    "--closed-vocabulary --replace-within=any --edits=insert=1,replace=0.6",
  ),
  (
    "look at the pairs",
    "data_gen inspect {out}/pairs.jsonl "
    "--image-dir={out}/scenes/images --html={out}/pairs.html",
  ),
  (
    "pairs and pictures to TFRecords",
    "data_gen write --pairs={out}/pairs.jsonl --out={out}/records "
    "--image-dir={out}/scenes/images",
  ),
  (
    "its answers under noise as the worse ones",
    "data_gen sample-noisy --checkpoint={out}/model --limit=8 "
    "--input={out}/scenes/train.json --image-dir={out}/scenes/images "
    "--max-new-tokens=8 --out={out}/noisy.jsonl",
  ),
  (
    "its own sentences, judged by the annotations",
    "data_gen sample --unit=sentence --checkpoint={out}/model --limit=4 "
    "--input={out}/scenes/train.json --image-dir={out}/scenes/images "
    "--annotations {out}/scenes/annotations/instances_train.json "
    "--max-new-tokens=8 --out={out}/own.jsonl",
  ),
  (
    "what fits",
    "povid_jax.plan --config=configs/quickstart.py:stage2 --topology=cpu:1 "
    "--preset={preset} --image=96x72 --branch=64",
  ),
  (
    "stage 1",
    "povid_jax.train --config=configs/quickstart.py:stage1 "
    "--workdir={out}/stage1 --config.init={out}/model " + _TRAIN,
  ),
  (
    "stage 2",
    "povid_jax.train --config=configs/quickstart.py:stage2 "
    "--workdir={out}/stage2 --config.init={out}/stage1 " + _TRAIN,
  ),
  (
    "POPE questions",
    "povid_jax.eval build-pope --out={out}/bench/pope --images=6 "
    "--per-image=2 --instances={out}/scenes/annotations/instances_test.json",
  ),
  (
    "scores before",
    f"{_EVAL} --checkpoint={{out}}/model --out={{out}}/results/base",
  ),
  (
    "scores after",
    f"{_EVAL} --checkpoint={{out}}/stage2 --out={{out}}/results/stage2",
  ),
  (
    "is the difference significant?",
    "povid_jax.eval compare {out}/results/base {out}/results/stage2",
  ),
  (
    "answers to one's own pictures",
    "povid_jax.generate --checkpoint={out}/stage2 --max-new-tokens=8 "
    "--images={out}/scenes/images/test --out={out}/answers.jsonl "
    "--prompt='Describe this image.'",
  ),
  (
    "where it looks, and what noise does to it",
    "povid_jax.eval --benchmarks=attention,noise_sweep --data={out}/bench "
    "--image-dir={out}/scenes/images --max-new-tokens=8 --batch-size=16 "
    "--objects=annotated --heat-maps=1 --noise-steps=clean,500 "
    "--checkpoint={out}/stage2 --out={out}/results/inside",
  ),
  (
    "log-probs and losses of the pairs",
    "povid_jax.score --checkpoint={out}/stage2 --pairs={out}/pairs.jsonl "
    "--image-dir={out}/scenes/images --out={out}/scores.jsonl",
  ),
  ("a page about the run", "povid_jax.report {out}"),
  ("the adapter for PEFT", "povid_jax.convert to-peft {out}/stage2 {out}/peft"),
  (
    "the tuned model for transformers",
    "povid_jax.convert to-hf {out}/stage2 {out}/tuned",
  ),
)
# family: its preset, and a template of its models
FAMILIES = {
  "llava": ("test", "short"),
  "next": ("test-next", "llava_llama_3"),
  "onevision": ("test-onevision", "qwen_1_5"),
  "qwen": ("test-qwen", "qwen2_vl"),
}


def run(out: Path, family: str = "llava") -> None:
  """Runs every command in `out` on a small model of a family.

  Raises:
    UserError: a command failed; its output is above.
  """
  preset, template = FAMILIES[family]
  for number, (title, command) in enumerate(COMMANDS, 1):
    if title == "POPE questions":
      _lay_out_benchmarks(out)
    words = shlex.split(
      command.format(out=out, preset=preset, template=template)
    )
    print(f"\n[{number}/{len(COMMANDS)}] {title}", flush=True)
    print(f"  $ python -m {shlex.join(words)}", flush=True)
    start = time.monotonic()
    done = subprocess.run(
      [sys.executable, "-m", *words],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env={**os.environ, **_QUICK},
    )
    # 4: nothing was accepted, which is right for sentences of a random model
    if done.returncode not in ((0, 4) if " sample " in command else (0,)):
      print(done.stdout)
      raise UserError("the command failed; its output is above")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    print(f"  {last}  ({time.monotonic() - start:.1f} s)", flush=True)


def _lay_out_benchmarks(out: Path) -> None:
  """The test pictures' annotations under the official names, and a question."""
  source = out / "scenes" / "annotations"
  chair, attention = (out / "bench" / name for name in ("chair", "attention"))
  for folder in (chair, attention):
    folder.mkdir(parents=True, exist_ok=True)
  for kind in ("instances", "captions"):
    found = source / f"{kind}_test.json"
    shutil.copyfile(found, chair / f"{kind}_val2014.json")
  images = files.load_json(source / "instances_test.json")["images"]
  name = images[0]["file_name"]
  question = {"question_id": 0, "image": name, "text": "What is there?"}
  (attention / "questions.jsonl").write_text(json.dumps(question) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
  """The command; without --out the folder is removed at the end."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.smoke",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--family", choices=sorted(FAMILIES), default="llava", help="(%(default)s)"
  )
  parser.add_argument("--out", type=Path, help="keep all files in this folder")
  args = parser.parse_args(argv)
  out, family = args.out, args.family
  start = time.monotonic()
  if out is not None:
    if out.exists():
      raise UserError(f"{out} exists; name a new folder for --out")
    run(out.absolute(), family)
  else:
    with tempfile.TemporaryDirectory(prefix="povid-smoke-") as folder:
      run(Path(folder), family)
  print(
    f"\nall {len(COMMANDS)} commands work ({time.monotonic() - start:.0f} s)"
  )
  return 0


if __name__ == "__main__":
  errors.run(main)
