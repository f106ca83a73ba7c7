"""Runs an injector: samples in, journal, gates, pairs and a summary out."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_gen import inject_flags
from data_gen.injectors.base import Injector, World
from data_gen.items import Annotations, Item, load_annotations, make_items
from data_gen.job import Job, Paths, check_output, table
from data_gen.journal import Journal, set_aside
from data_gen.rules.lexicon import Lexicon
from povid_jax.data.pairs import Sample
from povid_jax.errors import UserError
from povid_jax.files import atomic_write

# Exit codes.
INCOMPLETE = 3  # items are left for the next run
NOTHING = 4  # all items are done, and there is not one pair


def drive(args: argparse.Namespace, kind: type[Injector]) -> int:
  """The whole of a command; returns its exit code.

  Raises:
    UserError: the flags, the input or the output are not valid, or the run
      cannot continue.
  """
  inject_flags.check(args)
  injector = kind(args)
  if not args.dry_run:
    check_output(Path(args.out), args.input)
  annotations = load_annotations(args.annotations)
  world = World(
    _read(args, injector), Lexicon(annotations.categories), annotations
  )
  items = make_items(world.samples, args.pairs_per_sample, args.categories)
  if not items:
    raise UserError(
      f"no sample has a category in {args.categories}; change or omit "
      "--categories"
    )
  if args.limit:
    items = items[: args.limit * args.pairs_per_sample]
  items = [item for item in items if injector.wants(item)]
  _check_annotations(args, items, annotations)
  injector.prepare(world)
  if args.dry_run:
    injector.dry_run(items)
    return 0
  with _open(args, items, injector) as job:
    paths = Paths(Path(args.out))
    try:
      injector.run(job)
      job.end()
    except UserError:
      # The accepted pairs are written even if the run stops with an error.
      if job.journal.accepted:
        _write(paths, job)
      raise
    return _finish(paths, job)


def _read(args: argparse.Namespace, injector: Injector) -> list[Sample]:
  """The samples; each skipped one is recorded with the reason."""
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
    raise UserError(
      f"{args.input}: the file holds no usable sample; check that it is the "
      "right file"
    )
  return samples


def _check_annotations(
  args: argparse.Namespace, items: Sequence[Item], annotations: Annotations
) -> None:
  """Prints how many of the pictures the annotations contain.

  Raises:
    UserError: they contain none: they belong to another set of pictures.
  """
  known_of = annotations.objects.keys() | annotations.captions.keys()
  images = {item.image for item in items if item.image}
  known = len(images & known_of)
  if not args.annotations or not images or known == len(images):
    return
  some = next(iter(sorted(images - known_of)))
  theirs = next(iter(sorted(known_of)), "none")
  text = (
    f"--annotations know {known} of {len(images)} pictures; {some!r}, for "
    f"example, is not among the annotated names (such as {theirs!r})"
  )
  if not known:
    raise UserError(f"{text}; give the annotations of these pictures")
  print(text)


def _open(
  args: argparse.Namespace, items: Sequence[Item], injector: Injector
) -> Job:
  """The job on its journal."""
  paths = Paths(Path(args.out))
  if not args.resume:
    old = set_aside(paths.journal, paths.batches)
    if old:
      print(f"the journal of the earlier run was renamed to {old}")
  common = {"injector": injector.label, "tries": args.tries}
  return Job(
    items=list(items),
    journal=Journal(paths.journal, injector.settings() | common),
    injector=injector,
    tries=args.tries,
    max_cost=getattr(args, "max_cost", None),
    patience=(args.patience or None) if injector.asks else None,
  )


def _write(paths: Paths, job: Job) -> dict[str, Any]:
  """Writes pairs, rejected items and summary."""
  job.write_outputs(paths)
  summary = job.summary()
  with atomic_write(paths.summary) as file:
    json.dump(summary, file, indent=2)
    file.write("\n")
  return summary


def _finish(paths: Paths, job: Job) -> int:
  """Writes the outputs and prints what is left to do."""
  summary = _write(paths, job)
  job.end_progress()
  print(table(summary))
  print(f"pairs: {paths.out}")
  if summary["rejected"]:
    print(f"rejected: {paths.rejected}")
  if summary["left"]:
    why = f" ({job.problem[:400]})" if job.problem else ""
    print(
      f"stopped with {summary['left']} items left{why}; run the same command "
      "again to continue"
    )
    return INCOMPLETE
  if not summary["accepted"]:
    print(f"no pair was accepted; the reasons are in {paths.rejected}")
    return NOTHING
  return 0
