"""`make quickstart`: the whole loop on a CPU, all of it ordinary commands.

  python -m benchmarks.quickstart [--seed 0] [--out runs/quickstart]
  python -m benchmarks.quickstart --seeds 0,1,2 --ablations

Every step (benchmarks/quickstart_steps.py) is a command that works alone; the
page at the end lists them. Run again, finished steps are passed over;
interrupted anywhere, it continues.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import lanes
from benchmarks.lanes import Command
from benchmarks.quickstart_steps import (
  ABLATIONS,
  HEADLINE,
  SPLITS,
  STAGES,
  TITLES,
  steps,
)
from povid_jax import errors, files
from povid_jax.errors import UserError

_ENVIRONMENT = {
  "PYTHONUNBUFFERED": "1",  # a line is seen when it is printed
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}
# the stages have the same shapes: what one has compiled serves the others
_COMPILED = "JAX_COMPILATION_CACHE_DIR"
COLUMNS = ("CHAIRs", "CHAIRi", "recall", "length", "pope_f1")


def run(out: Path, seed: int, ablations: bool, at_once: int) -> None:
  """Runs the unfinished steps, then writes summary.json and the page."""
  rows = run_steps(out, steps(out, seed, ablations), at_once)
  summary = summarise(out, seed, _busy(rows.values()))
  with files.atomic_write(out / "summary.json") as file:
    json.dump(summary, file, indent=2)
  page = out / "report.html"
  command = ("-m", "povid_jax.report", str(out), f"--out={page}")
  if subprocess.run([sys.executable, *command]).returncode:
    raise UserError(f"the page {page} was not made (see above)")
  print_table(summary)
  took = f"{summary['seconds'] / 60:.1f} minutes of commands"
  print(f"\n{took}. The page: {page}", flush=True)


def run_steps(
  out: Path, todo: Sequence[Command], at_once: int
) -> dict[str, dict]:
  """Runs the steps that are not done in `out` yet; the log of all, by name."""
  log = out / "commands.jsonl"
  files.ensure_parent(log)

  def done(step: Command, seconds: float) -> None:
    if step.name == "scenes":
      _lay_out_benchmarks(out)
    row = {
      "name": step.name,
      "title": step.title,
      "command": str(step),
      "seconds": round(seconds, 1),
      "ended": round(time.time(), 1),
    }
    with open(log, "a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")

  finished = _finished(log)
  if all(step.name in finished for step in todo):
    print(f"all {len(todo)} steps are done in {out}")
  lanes.run(
    todo,
    finished,
    done,
    lanes=at_once,
    lock=out / ".lock",
    environment={**_ENVIRONMENT, _COMPILED: str(out.resolve() / ".compiled")},
  )
  return _finished(log)


def _finished(log: Path) -> dict[str, dict]:
  if not log.exists():
    return {}
  rows = {}
  files.cut_torn(log)
  for row in files.json_objects(log):
    rows[row["name"]] = row
  return rows


def _busy(rows: Iterable[dict]) -> float:
  """Seconds in which at least one command ran, over all runs of this one."""
  total = until = 0.0
  for row in sorted(rows, key=lambda row: row["ended"] - row["seconds"]):
    start = row["ended"] - row["seconds"]
    total += max(row["ended"], until) - max(start, until)
    until = max(row["ended"], until)
  return total


def _lay_out_benchmarks(out: Path) -> None:
  """bench/SPLIT/chair/ with the annotations under their official names."""
  for split, folder in {**SPLITS, "val": "val"}.items():
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
      for row in files.load_json(path)["results"]:
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
  add(
    "--seeds",
    metavar="S,...",
    help="comma-separated; each seed gets its own folder DIR-seedS",
  )
  add(
    "--ablations", action="store_true", help="also run the ablations of stage 2"
  )
  add(
    "--lanes",
    type=int,
    default=2,
    metavar="N",
    help="commands at the same time (default %(default)s)",
  )
  args = parser.parse_args(argv)
  if args.lanes < 1:
    raise UserError(f"--lanes={args.lanes}: expected 1 or more")
  if not Path("configs/quickstart.py").exists():
    raise UserError("no configs/quickstart.py here; run it in the repository")
  if args.seeds is None:
    run(args.out, args.seed, args.ablations, args.lanes)
    return 0
  for seed in args.seeds.split(","):
    folder = args.out.with_name(f"{args.out.name}-seed{seed}")
    run(folder, int(seed), args.ablations, args.lanes)
  return 0


if __name__ == "__main__":
  errors.run(main)
