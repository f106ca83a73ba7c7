"""Turn samples and their pictures into TFRecords for training.

  python -m data_gen write --pairs pairs.jsonl --image-dir images --out DIR

Reads preference data of any known format (docs/data.md has them: the released
JSON, RLHF-V, RLAIF-V, TRL, LLaMA-Factory, ..., tables with pictures inside),
recognised by its keys, or named with --format or --columns.
The folder DIR appears when it is complete; `povid_jax.train`,
`tfds.builder_from_directory` and `tf.data.TFRecordDataset` read it. The same
input, options and seed give the same bytes for any number of workers.

To write on many machines, give a Beam runner; the options after `--` go to it:

  python -m data_gen write ... --runner DataflowRunner -- --project=P ...
"""

import argparse
import os
import time
from pathlib import Path

from data_gen import shards
from data_gen.encode import Options
from data_gen.pool import write_local
from povid_jax import bounds, files
from povid_jax.data import samples
from povid_jax.errors import UserError
from povid_jax.files import atomic_dir, atomic_write
from povid_jax.folders import is_remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--pairs", "--input", dest="pairs", required=True, help=(
    "the samples, in any format that docs/data.md lists"
  ))  # fmt: skip
  add("--image-dir", help="folder of the pictures that the samples name")
  samples.add_arguments(parser)
  add("--out", required=True, help="folder to write; it must not exist")
  add("--store-noisy", action="store_true", help=(
    "store a distorted picture with each record (0.9 MB at 640x480); without "
    "it, training makes new noise in each epoch"
  ))  # fmt: skip
  add(
    "--noise-step",
    type=bounds.NOISE_STEP,
    default=500,
    help="0..999 (default 500)",
  )
  add("--noise-site", choices=("image", "pixels"), default="image", help=(
    "image: noise on the raw picture, as released; pixels: on the model's "
    "input, which can only be made in training"
  ))  # fmt: skip
  add("--noise-overflow", "--overflow", dest="overflow",
      choices=("wrap", "clip"), default="wrap", help=(
    "noisy values outside 0..255: wrap as released, or clip"
  ))  # fmt: skip
  add(
    "--shards",
    type=bounds.whole(1, 99999),
    help="number of files of the main split (default: by size)",
  )
  add("--split", default="train", help="name of the main split")
  add("--val-fraction", type=bounds.number(below=1), default=0.0, help=(
    "share of pictures (with all their samples) for the validation split"
  ))  # fmt: skip
  add("--pairs-per-row", type=bounds.whole(1, 10**6), default=1,
      metavar="N", help=(
    "join up to N pairs of the same picture and question into one record, so "
    "that training computes these once (default 1)"
  ))  # fmt: skip
  add(
    "--seed",
    type=bounds.SEED,
    default=0,
    help="seed of the split and the noise",
  )
  add(
    "--workers",
    type=bounds.WORKERS,
    default=os.cpu_count() or 1,
    help="processes",
  )
  add("--verify", choices=("header", "full"), default="header", help=(
    "header: check type, size and end of each picture; full: decode each "
    "picture"
  ))  # fmt: skip
  add("--on-bad-sample", choices=("raise", "skip"), default="raise", help=(
    "skip: continue, and list the ids and reasons in skipped.jsonl"
  ))  # fmt: skip
  add("--runner", default="local", help=(
    "local, or a Beam runner: DirectRunner, DataflowRunner, FlinkRunner, "
    "SparkRunner (needs pip install 'povid_jax[beam]')"
  ))  # fmt: skip
  add("pipeline_options", nargs="*", help="for the Beam runner, after `--`")


def make_options(args: argparse.Namespace) -> Options:
  """Checks the combinations of flags that argparse cannot check.

  Raises:
    UserError: options that exclude each other.
  """
  wrong = {
    "--split: want letters, digits or _": not args.split.isidentifier(),
    "--split validation: do not give --val-fraction": (
      args.split == shards.VALIDATION and args.val_fraction > 0
    ),
    "--store-noisy with --noise-site pixels: noise on the model's input "
    "depends on the model; leave --store-noisy out": (
      args.store_noisy and args.noise_site == "pixels"
    ),
    f"{args.image_dir}: no such folder": (
      args.image_dir is not None
      and not is_remote(args.image_dir)
      and not Path(args.image_dir).is_dir()
    ),
  }
  for message, is_wrong in wrong.items():
    if is_wrong:
      raise UserError(message)
  names = Options.__dataclass_fields__
  return Options(**{k: v for k, v in vars(args).items() if k in names})


def run_local(options: Options, out: Path, workers: int) -> None:
  with atomic_dir(out) as folder:
    read, skipped = shards.load(options, print)
    contents = shards.digests(read, options)
    plan = shards.make_plan(read, skipped, options, contents)
    written = write_local(plan, options, folder, workers)
    for name, text in shards.finish(written, plan, options).items():
      with atomic_write(folder / name) as file:
        file.write(text)


def is_complete(options: Options, out: Path) -> bool:
  """Whether `out` was made with these options of this input.

  Pictures are not read again: samples that were skipped because of them stay
    skipped.
  """
  try:
    facts = _facts(out)
  except UserError:
    return False
  return (
    isinstance(facts, dict)
    and facts.items() >= shards.settings(options).items()
    and (facts.get("pairs_sha256") == shards.source_digest(options.pairs))
  )


def _facts(out: Path) -> dict:
  return files.load_json(out / shards.SETTINGS_FILE)


def left_out(facts: dict, out: Path) -> str:
  """A line on what was skipped, or ""."""
  skipped, where = facts["skipped"], out / shards.SKIPPED_FILE
  return (
    f"{skipped:,} samples skipped; the reasons are in {where}"
    if skipped
    else ""
  )


def summary(out: Path, seconds: float) -> str:
  """What was written, from the folder itself."""
  facts = _facts(out)
  counts = facts["records"]
  total = sum(counts.values())
  size = sum(path.stat().st_size for path in out.iterdir())
  lines = [f"{name:<12}{n:>10,} records" for name, n in counts.items()]
  lines.append(
    f"{size / 2**20:,.1f} MiB in {seconds:.1f} s "
    f"({total / max(seconds, 1e-9):,.0f} records/s): {out}"
  )
  if facts["store_noisy"] and (plain := total - facts["noisy_stored"]):
    lines.append(
      f"{plain:,} records without a stored noisy picture: their samples have "
      "no picture, or several"
    )
  if facts["val_fraction"] and shards.VALIDATION not in counts:
    lines.append(
      "there is no validation split, because all samples share one picture"
    )
  if left := left_out(facts, out):
    lines.append(left)
  return "\n".join(lines)


def main(args: argparse.Namespace) -> int:
  options = make_options(args)
  start = time.monotonic()
  if not is_remote(args.out) and is_complete(options, Path(args.out)):
    print(f"{args.out} is complete already")
    if left := left_out(_facts(Path(args.out)), Path(args.out)):
      print(f"{left}; to try them again remove the folder")
    return 0
  if args.runner != "local":
    from data_gen import beam

    beam.run(options, args.out, args.runner, args.pipeline_options)
  elif args.pipeline_options:
    raise UserError(
      f"{args.pipeline_options[0]}: no such option; options after -- are only "
      "for a Beam --runner"
    )
  else:
    run_local(options, Path(args.out), args.workers)
  if is_remote(args.out):
    print(f"written: {args.out}")
  else:
    print(summary(Path(args.out), time.monotonic() - start))
  return 0
