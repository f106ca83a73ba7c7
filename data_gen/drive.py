"""Runs an injector: samples in, journal, gates, pairs and a summary out."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from data_gen import inject_flags
from data_gen.injectors.base import Injector, World
from data_gen.items import Item, load_annotations, make_items
from data_gen.job import Job, Paths, check_output, table
from data_gen.journal import Journal, set_aside
from data_gen.rules.lexicon import Lexicon
from povid_jax.data.pairs import Sample
from povid_jax.errors import UserError
from povid_jax.files import atomic_write

INCOMPLETE = 3  # exit code: items are left for the next run


def drive(args: argparse.Namespace, kind: type[Injector]) -> int:
  """The whole of a command; returns its exit code.

  Raises:
    UserError: flags, input or output will not do, or nothing can go on.
  """
  inject_flags.check(args)
  kind.check_flags(args)
  injector = kind(args)
  if not args.dry_run:
    check_output(Path(args.out), args.input)
  annotations = load_annotations(args.annotations)
  world = World(
    _read(args, injector), Lexicon(annotations.categories), annotations
  )
  items = make_items(world.samples, args.pairs_per_sample, args.categories)
  if not items:
    raise UserError(f"no sample is of {args.categories}; see --categories")
  if args.limit:
    items = items[: args.limit * args.pairs_per_sample]
  items = [item for item in items if injector.wants(item)]
  injector.prepare(world)
  if args.dry_run:
    injector.dry_run(items)
    return 0
  with _open(args, items, injector) as job:
    injector.run(job)
    return _finish(Paths(Path(args.out)), job)


def _read(args: argparse.Namespace, injector: Injector) -> list[Sample]:
  """The samples; each that is left out is written down with the reason."""
  paths = Paths(Path(args.out))
  left: list[dict[str, str]] = []
  skip = args.on_bad_sample == "skip"
  note = lambda error: left.append({"id": "", "reason": str(error)})
  samples = []
  enough = None if injector.whole_input or args.categories else args.limit
  on_bad = note if skip else None
  for sample in injector.load(args.input, on_bad):
    try:
      injector.check_sample(sample)
      samples.append(sample)
    except UserError as error:
      reason = f"id {sample.id!a:.80}: {error}"
      if not skip:
        raise UserError(f"{args.input}: {reason}") from error
      left.append({"id": sample.id, "reason": reason})
    if len(samples) == enough:
      break
  if args.dry_run:
    print(f"{len(left)} samples left out")
  elif left or paths.skipped.exists():
    with atomic_write(paths.skipped) as file:
      file.writelines(json.dumps(row) + "\n" for row in left)
    print(f"{len(left)} samples left out, see {paths.skipped}")
  if not samples:
    raise UserError(f"{args.input}: no sample to work on")
  return samples


def _open(
  args: argparse.Namespace, items: Sequence[Item], injector: Injector
) -> Job:
  """The job on its journal."""
  paths = Paths(Path(args.out))
  if not args.resume:
    old = set_aside(paths.journal, paths.batches)
    if old:
      print(f"the journal of the run before is now {old}")
  common = {"injector": injector.label, "tries": args.tries}
  return Job(
    items=list(items),
    journal=Journal(paths.journal, injector.settings() | common),
    injector=injector,
    tries=args.tries,
    max_cost=getattr(args, "max_cost", None),
  )


def _finish(paths: Paths, job: Job) -> int:
  """Writes pairs, rejected items and summary; says what is left to do."""
  job.write_outputs(paths)
  summary = job.summary()
  with atomic_write(paths.summary) as file:
    json.dump(summary, file, indent=2)
    file.write("\n")
  job.end_progress()
  print(table(summary))
  print(f"pairs: {paths.out}")
  if summary["rejected"]:
    print(f"rejected: {paths.rejected}")
  if summary["left"]:
    print(
      f"stopped with {summary['left']} items left; the same command continues"
    )
    return INCOMPLETE
  return 0
