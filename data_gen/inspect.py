"""Inspect pairs before you pay for a training run.

  python -m data_gen inspect pairs.jsonl --image-dir images --html pairs.html
  python -m data_gen inspect DIR                # TFRecords of `data_gen write`

Prints counts, histograms of lengths, kinds of edits, duplicates, what was
left out (rejected.jsonl and skipped.jsonl beside the file) and some samples
with the differences marked: [-chosen-] {+rejected+}. A context stands before
the answers and a bar, in grey on a terminal; "..." says that the answer goes on
there. With --html also one page that needs no other file.
"""

import argparse
import hashlib
import itertools
import random
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_gen import metadata, shards
from data_gen.inspect_stats import (
  Histogram,
  Pair,
  Stats,
  left_out,
  measure,
  text_of,
)
from data_gen.job import Paths
from povid_jax import bounds
from povid_jax.data import samples
from povid_jax.data.pairs import Sample, label, noisy_pictures, to_record
from povid_jax.data.picture import Picture
from povid_jax.data.records import Record, RecordSource
from povid_jax.errors import UserError
from povid_jax.files import atomic_write, check_writable, read_json
from povid_jax.progress import bar
from povid_jax.report.html import word_spans


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("source", help="a folder of TFRecords, or samples of any format")
  samples.add_arguments(parser)
  add("--image-dir", help="folder of the pictures of a JSON file, for --html")
  add("--limit", type=bounds.whole(1), default=20_000, help=(
    "number of records to read from a folder, evenly spread (default 20000)"
  ))  # fmt: skip
  add(
    "--samples",
    type=bounds.whole(),
    default=10,
    help="samples to print (default 10)",
  )
  add(
    "--seed", type=bounds.SEED, default=0, help="seed of the choice of samples"
  )
  add("--html", help="also write an HTML page to this file")
  add("--html-samples", type=bounds.whole(), default=60, help=(
    "samples on the page (default 60; about 60 kB each)"
  ))  # fmt: skip
  add("--noise-step", type=bounds.NOISE_STEP, default=500, help=(
    "noise step on the page if no noisy picture is stored (default 500)"
  ))  # fmt: skip
  add("--noise-overflow", "--overflow", dest="overflow",
      choices=("wrap", "clip"), default="wrap",
      help="overflow of that noise")  # fmt: skip


# --- reading ---------------------------------------------------------------


def _kinds(edits: object) -> tuple[str, ...]:
  rows = edits if isinstance(edits, list) else []
  return tuple(
    label(row.get("kind", "(none)")) for row in rows if isinstance(row, dict)
  )


def _opens(picture: Picture) -> bool:
  """Whether a picture can be shown; picture files need --image-dir."""
  return not picture.is_file or picture.folder is not None


def from_sample(sample: Sample) -> Pair:
  extra = sample.extra
  step = extra.get("noise_step", 500) if "image_noisy" in extra else -1

  def pictures() -> list[bytes]:
    return [p.read() for p in sample.images if _opens(p)]

  def noisy() -> bytes | None:
    name = extra.get("image_noisy")
    if not isinstance(name, str):
      return None
    twins = noisy_pictures(sample)
    return twins[0].read() if _opens(twins[0]) else None

  return _pair(
    to_record(sample, ()),
    picture_key="\0".join(p.key for p in sample.images),
    edits=_kinds(extra.get("edits")),
    noise_step=step if isinstance(step, int) else 500,
    pictures=pictures,
    noisy=noisy,
  )


def _pair(record: Record, *, split: str = "", **more: Any) -> Pair:
  """What a record says, and `more` about its pictures."""
  return Pair(
    id=record.id,
    split=split,
    prompt=record.prompt_turns,
    chosen=record.chosen,
    rejected=record.rejected,
    category=record.category,
    injector=record.injector,
    context=record.context,
    ends=record.scores_end,
    weight=record.rejected_weight,
    more=record.more_rejected,
    **more,
  )


def from_record(source: RecordSource, i: int, split: str) -> list[Pair]:
  """One for each chosen answer of the record."""
  record: Record = source[i]
  digest = hashlib.blake2b(digest_size=16)
  for data in record.images:
    digest.update(data)
  return [
    _pair(
      one,
      split=split,
      picture_key=digest.hexdigest() if record.images else "",
      noise_step=record.noise_step if record.image_noisy else -1,
      # Read again when shown: a folder's pictures do not fit into memory.
      pictures=lambda: list(source[i].images),
      noisy=lambda: source[i].image_noisy,
    )
    for one in record.by_chosen()
  ]


def _splits(folder: Path) -> list[str]:
  info = folder / metadata.INFO_FILE
  if not info.is_file():  # only the records were copied
    names = (re.search(r"-(\w+)\.tfrecord-", p.name) for p in folder.iterdir())
    return sorted({name[1] for name in names if name})
  held = read_json(info, "data_gen write makes it")
  try:
    return [split["name"] for split in held["splits"]]
  except (KeyError, TypeError) as error:
    raise UserError(f"{info}: want `splits`, each with a name") from error


def _read_folder(folder: Path, limit: int) -> tuple[list[Pair], int]:
  sources = [(name, RecordSource(folder, name)) for name in _splits(folder)]
  total = sum(len(source) for _, source in sources)
  step = max(1, -(-total // limit))
  places = [
    (name, source, i) for name, source in sources for i in range(len(source))
  ][::step]
  progress = bar(places, desc="read", unit="record")
  found = [from_record(source, i, name) for name, source, i in progress]
  return list(itertools.chain.from_iterable(found)), total


def read(
  source: Path, layout: samples.Layout, limit: int
) -> tuple[list[Pair], int]:
  """(pairs, how many there are in all).

  Raises:
    UserError: no such file, or one that is neither.
  """
  if source.is_dir() and any(source.glob("*.tfrecord-*")):
    pairs, total = _read_folder(source, limit)
  else:
    read = samples.iter_samples(source, layout, announce=print)
    pairs = list(map(from_sample, read))
    total = len(pairs)
  if not pairs:
    raise UserError(
      f"{source}: it holds no samples, so there is nothing to show; give a "
      "folder of TFRecords or a file of pairs"
    )
  return pairs, total


def beside(source: Path) -> tuple[Path, ...]:
  """The files that list the samples left out of `source`."""
  if source.is_dir():
    return (source / shards.SKIPPED_FILE,)
  paths = Paths(source)
  return (paths.rejected, paths.skipped)


# --- printing --------------------------------------------------------------


def _blocks() -> str:
  try:
    "█".encode(sys.stdout.encoding or "ascii")
  except UnicodeEncodeError:
    return "#"
  return "█"


def histogram_lines(histogram: Histogram, width: int) -> list[str]:
  most = max(histogram.counts)
  lines = [f"{histogram.name} (mean {histogram.mean:.4g})"]
  for name, count in zip(histogram.labels, histogram.counts, strict=True):
    share = _blocks() * max(round(width * count / most), count > 0)
    lines.append(f"  {name:>10} {count:>8,} {share}")
  return lines


def marked(chosen: str, rejected: str) -> str:
  """The two answers in one text: [-chosen-] {+rejected+} where they differ."""
  left, right = word_spans(chosen, rejected)
  out = []
  while left or right:
    old = left.pop(0)[0] if left and left[0][1] else ""
    new = right.pop(0)[0] if right and right[0][1] else ""
    if old or new:
      blank = (new or old)[len((new or old).rstrip()) :]
      marks = [
        f"[-{old.rstrip()}-]" if old else "",
        f"{{+{new.rstrip()}+}}" if new else "",
      ]
      out.append(" ".join(filter(None, marks)) + blank)
    else:
      # The same words; the blank behind the last may be on one side only.
      out.append(max(left.pop(0)[0], right.pop(0)[0], key=len))
  return "".join(out).rstrip()


def _answer_lines(pair: Pair) -> Iterator[str]:
  """The answers of a pair, behind what was said before them."""
  grey = "\x1b[2m{}\x1b[0m" if sys.stdout.isatty() else "{}"
  so_far = f"{grey.format(pair.context)} | " if pair.context else ""
  goes_on = "" if pair.ends else " ..."
  chosen = text_of(pair.chosen)
  if not pair.rejected:
    yield so_far + chosen + goes_on
  for answer in pair.every_rejected:
    weight = "" if answer.weight == 1 else f"(weight {answer.weight:g}) "
    yield f"{so_far}{weight}{marked(chosen, text_of(answer.turns))}{goes_on}"


def sample_lines(pair: Pair) -> list[str]:
  labels = [pair.id, pair.split, pair.category, pair.injector]
  return [
    "--- " + " | ".join(filter(None, labels)),
    *(f"> {line}" for line in text_of(pair.prompt).splitlines() if line),
    *_answer_lines(pair),
    "",
  ]


def report(stats: Stats, chosen: Sequence[Pair]) -> str:
  lines = []
  if stats.seen < stats.total:
    lines += [f"{stats.seen:,} of {stats.total:,} records, evenly spread", ""]
  for name, rows in stats.tables.items():
    lines.append(name)
    lines += [f"  {count:>9,}  {label}" for label, count in rows]
    lines.append("")
  if stats.text_only:
    lines += [stats.text_only, ""]
  width = max(10, min(shutil.get_terminal_size().columns, 80) - 24)
  for histogram in stats.histograms:
    lines += [*histogram_lines(histogram, width), ""]
  for pair in chosen:
    lines += sample_lines(pair)
  return "\n".join(lines)


def choose(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
  """Some of the pairs, by seed, in their order."""
  if count >= len(pairs):
    return list(pairs)
  places = random.Random(seed).sample(range(len(pairs)), max(count, 0))
  return [pairs[i] for i in sorted(places)]


def main(args: argparse.Namespace) -> int:
  source = Path(args.source)
  if args.image_dir and not Path(args.image_dir).is_dir():
    raise UserError(f"{args.image_dir}: no such folder")
  if args.html:
    check_writable(args.html)
  layout = samples.Layout(args.image_dir, args.format, args.columns)
  pairs, total = read(source, layout, args.limit)
  stats = measure(pairs, total, left_out(*beside(source)))
  print(report(stats, choose(pairs, args.samples, args.seed)))
  if args.html:
    from data_gen.inspect_page import render

    shown = choose(pairs, args.html_samples, args.seed)
    page = render(source.name, stats, shown, args.noise_step, args.overflow)
    with atomic_write(args.html) as file:
      file.write(page)
    print(f"page: {args.html} ({len(page) / 2**20:.1f} MiB)")
  return 0
