"""`make quickstart`: the whole loop on a CPU, one ordinary command at a time.

  python -m benchmarks.quickstart [--seed 0] [--out runs/quickstart]
  python -m benchmarks.quickstart --seeds 0,1,2 --ablations

Every step is a command that works alone; the page at the end lists them. Run
again, finished steps are passed over; interrupted anywhere, it continues.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from povid_jax import errors, files
from povid_jax.errors import UserError

SPLITS = {"in_distribution": "test", "balanced": "test_balanced"}
HEADLINE = "in_distribution"
STAGES = ("sft", "stage1", "stage2", "sft_continued")
ABLATIONS = ("injected_only", "noise_only", "half_injected")
TITLES = {
  "sft": "base (SFT)",
  "stage1": "stage 1",
  "stage2": "stage 2 (POVID)",
  "sft_continued": "SFT continued",
  "injected_only": "stage 2, injected only",
  "noise_only": "stage 2, noise only",
  "half_injected": "stage 2, injected at half weight",
}
INIT = {
  "pretrain": "base",
  "sft": "pretrain",
  "stage1": "sft",
  "sft_continued": "sft",
}
DESCRIBE = "Describe this image."
# chances per answer; insertions speak of what is usual in the place
EDITS = "insert=1,replace=0.6"
PAIRS = 3000  # pictures whose description becomes a preference pair
# glibc gives every freed activation back to the kernel and asks for it again;
# on small virtual machines those page faults are a good part of a step
_KEEP_MEMORY = {
  "MALLOC_MMAP_MAX_": "0",
  "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
  "MALLOC_TOP_PAD_": str(1 << 28),
}
COLUMNS = ("CHAIRs", "CHAIRi", "recall", "length", "pope_f1")


@dataclasses.dataclass(frozen=True)
class Step:
  """One command and what it is for."""

  name: str
  title: str
  command: tuple[str, ...]


def steps(out: Path, seed: int, ablations: bool) -> Iterator[Step]:
  """All commands in order."""
  data = lambda name: f"{out}/{name}"

  def gen(name: str, title: str, *arguments: str) -> Step:
    return Step(name, title, ("-m", "data_gen", *arguments))

  yield gen(
    "scenes",
    "draw the world",
    "scenes",
    f"--out={data('scenes')}",
    f"--seed={seed}",
  )
  yield gen(
    "tokenizer",
    "make a tokenizer from its texts",
    "tokenizer",
    "--input",
    data("scenes/train.json"),
    data("scenes/pretrain.json"),
    f"--out={data('tokenizer')}",
    "--vocab-size=384",
  )
  yield Step(
    "base",
    "a LLaVA of toy size with random weights",
    (
      *("-m", "povid_jax.convert", "init", data("base"), "--preset=tiny"),
      f"--tokenizer={data('tokenizer')}",
      "--template=short",
      f"--seed={seed}",
    ),
  )
  for name, split in (("pretrain", "pretrain"), ("sft", "train")):
    yield _write(out, name, data(f"scenes/{split}.json"), seed)
  yield from (_train(out, seed, stage) for stage in ("pretrain", "sft"))
  yield gen(
    "inject",
    "inject hallucinations into correct answers",
    "inject",
    f"--input={data('scenes/train.json')}",
    f"--image-dir={data('scenes/images')}",
    f"--annotations={data('scenes/annotations/instances_train.json')}",
    f"--out={data('pairs.jsonl')}",
    "--injector=rules",
    f"--edits={EDITS}",
    "--words-per-edit=20",
    "--insert-above=0.4",
    "--replace-within=any",
    "--closed-vocabulary",
    "--categories=description",
    f"--limit={PAIRS}",
    f"--seed={seed}",
  )
  yield _write(out, "pairs", data("pairs.jsonl"), seed)
  tuned = [*STAGES[1:], *(ABLATIONS if ablations else ())]
  yield from (_train(out, seed, stage) for stage in tuned)
  for split, folder in SPLITS.items():
    yield Step(
      f"pope-{split}",
      f"POPE questions, {split} test pictures",
      (
        *("-m", "povid_jax.eval", "build-pope"),
        f"--instances={data(f'scenes/annotations/instances_{folder}.json')}",
        f"--out={data(f'bench/{split}/pope')}",
        *("--images=500", "--per-image=2", f"--seed={seed}"),
      ),
    )
  for stage in ("sft", *tuned):
    for split in SPLITS:
      yield _evaluate(out, stage, split)
  for a, b in (
    ("sft", "stage1"),
    ("sft", "stage2"),
    ("sft_continued", "stage2"),
  ):
    base, other = (data(f"eval/{x}/{HEADLINE}") for x in (a, b))
    yield Step(
      f"compare-{a}-{b}",
      f"is the step from {TITLES[a]} to {TITLES[b]} significant?",
      ("-m", "povid_jax.eval", "compare", base, other),
    )


def _write(out: Path, name: str, pairs: str, seed: int) -> Step:
  return Step(
    f"write-{name}",
    f"TFRecords: {name}",
    (
      *("-m", "data_gen", "write", f"--pairs={pairs}"),
      f"--image-dir={out}/scenes/images",
      f"--out={out}/records/{name}",
      f"--seed={seed}",
    ),
  )


def _train(out: Path, seed: int, stage: str) -> Step:
  records = stage if stage in ("pretrain", "sft") else "pairs"
  return Step(
    f"train-{stage}",
    f"train: {TITLES.get(stage, stage)}",
    (
      *("-m", "povid_jax.train", f"--config=configs/quickstart.py:{stage}"),
      f"--workdir={out}/{stage}",
      f"--config.init={out}/{INIT.get(stage, 'stage1')}",
      f"--config.data.train={out}/records/{records}",
      f"--config.seed={seed}",
    ),
  )


def _evaluate(out: Path, stage: str, split: str) -> Step:
  return Step(
    f"eval-{stage}-{split}",
    f"evaluate: {TITLES[stage]}, {split}",
    (
      *("-m", "povid_jax.eval", f"--checkpoint={out}/{stage}"),
      "--benchmarks=chair,pope",
      f"--data={out}/bench/{split}",
      f"--images={out}/scenes/images",
      f"--out={out}/eval/{stage}/{split}",
      f"--prompt=chair={DESCRIBE}",
      "--prompt=pope=",
      "--max-new-tokens=chair=96",
      "--max-new-tokens=pope=4",
      "--objects=annotated",
      "--batch-size=100",
    ),
  )


def run(out: Path, seed: int, ablations: bool) -> None:
  """Runs what is not done yet, then writes summary.json and the page."""
  todo = list(steps(out, seed, ablations))
  log = out / "commands.jsonl"
  files.ensure_parent(log)
  finished = _finished(log)
  for number, step in enumerate(todo, 1):
    if step.name in finished:
      continue
    print(f"\n[{number}/{len(todo)}] {step.title}", flush=True)
    if step.name == "pope-in_distribution":
      _lay_out_benchmarks(out)
    seconds = _call(step.command)
    row = {
      "name": step.name,
      "title": step.title,
      "command": "python " + shlex.join(step.command),
      "seconds": round(seconds, 1),
    }
    with open(log, "a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
  seconds = sum(row["seconds"] for row in _finished(log).values())
  summary = summarise(out, seed, seconds)
  with files.atomic_write(out / "summary.json") as file:
    json.dump(summary, file, indent=2)
  page = out / "report.html"
  _call(("-m", "povid_jax.report", str(out), f"--out={page}"))
  print_table(summary)
  took = f"{seconds / 60:.1f} minutes of commands"
  print(f"\n{took}. The page: {page}", flush=True)


def _finished(log: Path) -> dict[str, dict]:
  if not log.exists():
    return {}
  rows = {}
  for line in log.read_text(encoding="utf-8").splitlines():
    try:
      row = json.loads(line)
      rows[row["name"]] = row
    except ValueError:  # the line that a killed run was writing
      continue
  return rows


def _call(command: Sequence[str]) -> float:
  """Runs a Python command here; its error line is the last word."""
  print("  $ python " + shlex.join(command), flush=True)
  start = time.monotonic()
  environment = {**_KEEP_MEMORY, **os.environ}
  code = subprocess.run([sys.executable, *command], env=environment).returncode
  if code:
    raise UserError(
      "that command failed (see above); the same command continues from here"
    )
  return time.monotonic() - start


def _lay_out_benchmarks(out: Path) -> None:
  """bench/<split>/chair/ with the annotations under their official names."""
  for split, folder in SPLITS.items():
    target = out / "bench" / split / "chair"
    target.mkdir(parents=True, exist_ok=True)
    for kind in ("instances", "captions"):
      link = target / f"{kind}_{folder}.json"
      if not link.exists():
        source = out / "scenes" / "annotations" / f"{kind}_{folder}.json"
        os.link(source, link)


def summarise(out: Path, seed: int, seconds: float) -> dict:
  """The scores of every stage, rates as fractions."""
  stages: dict[str, dict] = {}
  for stage in (*STAGES, *ABLATIONS):
    for split in SPLITS:
      path = out / "eval" / stage / split / "results.json"
      if not path.exists():
        continue
      scores = {}
      for row in json.loads(path.read_text())["results"]:
        pope = row["benchmark"] == "pope"
        name = row["metric"].replace("/", "_")
        scores[f"pope_{name}" if pope else name] = row["value"]
      stages.setdefault(stage, {})[split] = scores
  return {
    "seed": seed,
    "seconds": round(seconds),
    "headline": HEADLINE,
    "stages": stages,
  }


def print_table(summary: dict) -> None:
  """Both test splits, a row per stage."""
  for split in SPLITS:
    print(f"\n{split.replace('_', ' ')} test pictures")
    print(f"{'':34}" + "".join(f"{name:>9}" for name in COLUMNS))
    for stage, scores in summary["stages"].items():
      cells = [
        f"{scores[split][name]:9.1f}"
        if name == "length"
        else f"{100 * scores[split][name]:8.1f}%"
        for name in COLUMNS
      ]
      print(f"{TITLES[stage]:34}" + "".join(cells))
  sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="benchmarks.quickstart",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--out", type=Path, default=Path("runs/quickstart"), metavar="DIR")
  add("--seed", type=int, default=0)
  add("--seeds", metavar="S,...", help="several: DIR-seedS each")
  add("--ablations", action="store_true", help="also the ablations of stage 2")
  args = parser.parse_args(argv)
  if not Path("configs/quickstart.py").exists():
    raise UserError("no configs/quickstart.py here; run it in the repository")
  if args.seeds is None:
    run(args.out, args.seed, args.ablations)
    return 0
  for seed in args.seeds.split(","):
    folder = args.out.with_name(f"{args.out.name}-seed{seed}")
    run(folder, int(seed), args.ablations)
  return 0


if __name__ == "__main__":
  errors.run(main)
