"""Pairs in the formats of other trainers.

  python -m data_gen export pairs.jsonl --image-dir images --format trl \\
    --out pairs.parquet
  python -m data_gen export DIR --format povid --out pairs.json

Reads samples of any format (docs/data.md), or the TFRecords of `data_gen
write`, and writes

  trl    one parquet file with the pictures inside: images, prompt, chosen,
         rejected, as TRL's DPOTrainer and Hugging Face's datasets read them
  povid  the released JSON: conversations and rejected_conversations
  llava  LLaVA-Instruct: the correct answers alone

These formats have no place for a context, for weights or for several rejected
answers of one prompt: a context is written into both answers, each rejected
answer becomes a pair of its own, and what is lost is printed.
"""

import argparse
import collections
import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from povid_jax.data import samples, text
from povid_jax.data.pairs import (
  Sample,
  dump,
  pictures_folder,
  split_turns,
  to_json,
  with_files,
)
from povid_jax.data.picture import Picture, add_follow_links
from povid_jax.data.records import Record, RecordSource
from povid_jax.errors import UserError
from povid_jax.files import atomic_write, check_writable
from povid_jax.progress import bar

FORMATS = {"trl": ".parquet", "povid": ".json", "llava": ".json"}
_ROWS = 100  # of a row group, as `datasets` writes tables with pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("source", help="samples of any format, or a folder of TFRecords")
  add("--format", required=True, choices=tuple(FORMATS), help="to write")
  add("--out", required=True, type=Path, help=(
    ".parquet for trl; .json (a list) or .jsonl for povid and llava"
  ))  # fmt: skip
  add("--image-dir", help="folder of the pictures that the samples name")
  add_follow_links(parser)
  add("--split", default="train", help="split of a folder of TFRecords")
  add("--input-format", metavar="NAME", help=(
    "layout of the samples (default: recognised by their keys)"
  ))  # fmt: skip
  add("--columns", metavar="NAME=COLUMN,...", help=(
    "layout of any table: image=...,question=...,chosen=...,rejected=..."
  ))  # fmt: skip


# --- in --------------------------------------------------------------------


def from_record(record: Record) -> Sample:
  """A record as a sample whose pictures are bytes."""
  prompt = record.prompt_turns
  names = [f"{record.id}-{i}" for i in range(len(record.images))]
  named = zip(names, record.images, strict=True)
  return Sample(
    id=record.id,
    images=tuple(Picture(name, data=data) for name, data in named),
    turns=(*prompt, *record.chosen),
    rejected=(*prompt, *record.rejected) if record.rejected else None,
    extra={
      name: value
      for name in ("category", "injector")
      if (value := getattr(record, name))
    },
    system=record.system or None,
    context=record.context,
    end_scored=record.end_scored,
    rejected_weight=record.rejected_weight,
    more_rejected=tuple(
      dataclasses.replace(more, turns=(*prompt, *more.turns))
      for more in record.more_rejected
    ),
  )


def _read(args: argparse.Namespace) -> Iterator[Sample]:
  source = Path(args.source)
  if source.is_dir() and any(source.glob("*.tfrecord-*")):
    records = RecordSource(source, args.split)
    for i in range(len(records)):
      yield from map(from_record, records[i].by_chosen())
    return
  layout = samples.Layout(args.image_dir, args.input_format, args.columns)
  yield from samples.iter_samples(source, layout, announce=print)


# --- between ---------------------------------------------------------------


def _whole(turns: tuple[str, ...], context: str) -> tuple[str, ...]:
  """The turns with the context in front of the last answer."""
  return (*turns[:-1], text.join(context, turns[-1])) if context else turns


def plain(sample: Sample, lost: collections.Counter[str]) -> Iterator[Sample]:
  """The sample as plain samples: no context, no weights, one rejected answer
  each.

  Args:
    sample: of any kind.
    lost: counts what is lost in plain samples.
  """
  lost["pairs had a context, which was written into both answers"] += bool(
    sample.context
  )
  lost[
    "pairs did not score the end of the answer; in this format it is scored"
  ] += sample.end_scored is False
  weights = {sample.rejected_weight, *(m.weight for m in sample.more_rejected)}
  lost["pairs had weights, which are lost"] += weights != {1.0}
  rejected = [sample.rejected, *(m.turns for m in sample.more_rejected)]
  for number, turns in enumerate(rejected, 1):
    yield dataclasses.replace(
      sample,
      id=sample.id if number == 1 else f"{sample.id}-r{number}",
      turns=_whole(sample.turns, sample.context),
      rejected=None if turns is None else _whole(turns, sample.context),
      context="",
      end_scored=None,
      rejected_weight=1.0,
      more_rejected=(),
    )


# --- out -------------------------------------------------------------------


def _parts(turn: str, asked: bool) -> list[dict[str, str | None]]:
  """A turn as TRL's parts: pictures and texts, in their order."""
  if not asked:
    return [{"type": "text", "text": turn}]
  parts: list[dict[str, str | None]] = []
  for i, piece in enumerate(turn.split("<image>")):
    if i:
      parts.append({"type": "image", "text": None})
    if piece.strip():
      parts.append({"type": "text", "text": piece.strip()})
  return parts


def _chat(turns: Iterable[str], asked: bool) -> list[dict[str, Any]]:
  """Messages of turns that alternate; `asked`: a question comes first."""
  messages = []
  for turn in turns:
    role = "user" if asked else "assistant"
    messages.append({"role": role, "content": _parts(turn, asked)})
    asked = not asked
  return messages


def trl_row(sample: Sample) -> dict[str, Any]:
  """A pair as a row of TRL's vision format."""
  prompt, chosen, rejected = split_turns(sample)
  system = []
  if sample.system:
    said = [{"type": "text", "text": sample.system}]
    system = [{"role": "system", "content": said}]
  return {
    "id": sample.id,
    "images": [{"bytes": p.read(), "path": p.name} for p in sample.images],
    "prompt": [*system, *_chat(prompt, True)],
    "chosen": _chat(chosen, False),
    "rejected": _chat(rejected or (), False),
  }


def _schema() -> Any:
  """With the features that make `datasets` decode the pictures."""
  import pyarrow as pa

  part = pa.struct([("type", pa.string()), ("text", pa.string())])
  message = pa.struct([("role", pa.string()), ("content", pa.list_(part))])
  image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
  value = {"dtype": "string", "_type": "Value"}
  chat = [{"role": value, "content": [{"type": value, "text": value}]}]
  images = {"feature": {"_type": "Image"}, "_type": "Sequence"}
  features = {"id": value, "images": images} | dict.fromkeys(
    ("prompt", "chosen", "rejected"), chat
  )
  return pa.schema(
    [("id", pa.string()), ("images", pa.list_(image))]
    + [(name, pa.list_(message)) for name in ("prompt", "chosen", "rejected")],
    metadata={"huggingface": json.dumps({"info": {"features": features}})},
  )


def write_trl(path: Path, pairs: Iterable[Sample]) -> None:
  """Writes a parquet file, a hundred pairs in memory at a time.

  Raises:
    UserError: pyarrow is missing, a picture cannot be read, the file cannot be
      written.
  """
  try:
    import pyarrow as pa
    import pyarrow.parquet as pq
  except ImportError as error:
    raise UserError(
      "--format trl needs pyarrow: pip install 'povid_jax[parquet]'"
    ) from error
  schema = _schema()
  rows: list[dict[str, Any]] = []
  with atomic_write(path, "wb") as file, pq.ParquetWriter(file, schema) as out:

    def flush() -> None:
      out.write_table(pa.Table.from_pylist(rows, schema))
      rows.clear()

    for sample in pairs:
      try:
        rows.append(trl_row(sample))
      except UserError as error:
        raise UserError(f"id {sample.id!a:.80}: {error}") from error
      if len(rows) == _ROWS:
        flush()
    flush()


def write_json(path: Path, made: Iterable[Sample]) -> None:
  """Writes a list (.json) or lines (.jsonl) in the released format.

  Pictures that are no files are written beside it, see `pairs.with_files`.
  """
  rows = [dump(to_json(s)) for s in with_files(made, pictures_folder(path))]
  with atomic_write(path) as file:
    if path.suffix == ".jsonl":
      file.writelines(row + "\n" for row in rows)
    else:
      file.write("[\n" + ",\n".join(rows) + "\n]\n")


def _made(
  args: argparse.Namespace, lost: collections.Counter[str]
) -> Iterator[Sample]:
  for sample in bar(_read(args), desc="export", unit="sample"):
    if args.format == "llava":
      whole = _whole(sample.turns, sample.context)
      kept = (sample.id, sample.images, whole)
      made = [Sample(*kept, extra=sample.extra, system=sample.system)]
      lost["rejected answers were left out"] += sample.rejected is not None
    elif sample.rejected is None:
      lost["samples without a rejected answer were left out"] += 1
      continue
    else:
      made = plain(sample, lost)
    for one in made:
      lost[""] += 1
      if args.format != "trl":
        several, told = len(one.images) > 1, one.system is not None
        words = "samples have several pictures; LLaVA's loader reads one"
        lost[words] += several
        lost["samples have a system turn, which LLaVA's loader refuses"] += told
      yield one


def main(args: argparse.Namespace) -> int:
  """The command."""
  endings = (".parquet",) if args.format == "trl" else (".json", ".jsonl")
  if args.out.suffix not in endings:
    raise UserError(
      f"--out {args.out}: want a name that ends in {' or '.join(endings)} for "
      f"--format {args.format}"
    )
  if args.out.resolve() == Path(args.source).resolve():
    raise UserError(f"--out {args.out} is the input file; choose another file")
  check_writable(args.out)
  lost: collections.Counter[str] = collections.Counter()
  write = write_trl if args.format == "trl" else write_json
  write(args.out, _made(args, lost))
  count = lost.pop("", 0)
  if not count:
    args.out.unlink()
    raise UserError(
      f"{args.source}: no pair to write; --format llava also writes samples "
      "without a rejected answer"
    )
  print(f"{count:,} rows of {args.format}: {args.out}")
  if pictures_folder(args.out).is_dir() and args.format != "trl":
    print(f"pictures: {pictures_folder(args.out)}")
  for what, number in lost.items():
    if number:
      print(f"{number:,} {what}")
  return 0
