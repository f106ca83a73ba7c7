"""Make dispreferred answers: correct ones with plausible hallucinations put in.

  python -m data_gen inject --input train.json --out pairs.jsonl
  python -m data_gen inject --input train.json --image-dir images \\
    --out pairs.jsonl --injector openai --model gpt-4o-mini --max-cost 20

Reads LLaVA-Instruct or preference JSON / JSONL, or COCO captions_*.json, and
writes the released preference format (id, image, conversations,
rejected_conversations) with three keys more: injector, category and edits.

  rules         no network: likely objects from the corpus's own statistics,
                wrong attributes, numbers, positions and replies
  openai        a vision model behind any OpenAI-compatible server
  openai-batch  the same through the Batch API, at half the price

The key of the API is read from OPENAI_API_KEY. Everything is recorded in a
journal beside the output: the same command continues after any interruption
and pays for nothing twice.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from data_gen import batch, live, local
from data_gen.inject_flags import (
  add_arguments,
  check,
  limits,
  rules_settings,
  server_options,
)
from data_gen.items import (
  Annotations,
  Item,
  load_annotations,
  load_samples,
  make_items,
)
from data_gen.job import Job, Paths, check_output, table
from data_gen.journal import Journal, set_aside
from data_gen.rules.injector import Settings
from data_gen.rules.lexicon import Lexicon
from povid_jax.data.pairs import Sample, resolve_image
from povid_jax.errors import UserError
from povid_jax.files import atomic_write
from povid_jax.llm import api_key

__all__ = ["add_arguments", "main"]

INCOMPLETE = 3  # exit code: items are left for the next run


def main(args: argparse.Namespace) -> int:
  check(args)
  if not args.dry_run:
    check_output(Path(args.out), args.input)
  annotations = load_annotations(args.annotations)
  lexicon = Lexicon(annotations.categories)
  samples = _read(args, Paths(Path(args.out)))
  items = make_items(samples, args.pairs_per_sample, args.categories)
  if not items:
    raise UserError(f"no sample is of {args.categories}; see --categories")
  if args.limit:
    items = items[: args.limit * args.pairs_per_sample]
  if args.injector == "rules":
    # Statistics come from every sample, so that --limit changes no pair.
    corpus = local.learn_corpus(make_items(samples), lexicon, annotations)
    return _run_rules(args, items, corpus, annotations)
  return _run_server(args, items, lexicon, annotations)


def _read(args: argparse.Namespace, paths: Paths) -> list[Sample]:
  """The samples; what is left out is written down, never dropped silently."""
  problems: list[UserError] = []
  on_bad = problems.append if args.on_bad_sample == "skip" else None
  samples = []
  for sample in load_samples(args.input, on_bad):
    try:
      for name in sample.images if args.image_dir else ():
        resolve_image(args.image_dir, name)
      samples.append(sample)
    except UserError as error:
      if on_bad is None:
        raise UserError(
          f"{args.input}: id {sample.id!a:.80}: {error}"
        ) from error
      on_bad(UserError(f"id {sample.id!a:.80}: {error}"))
  if args.dry_run:
    print(f"{len(problems)} samples left out")
  elif problems or paths.skipped.exists():
    with atomic_write(paths.skipped) as file:
      file.writelines(json.dumps({"reason": str(p)}) + "\n" for p in problems)
    print(f"{len(problems)} samples left out, see {paths.skipped}")
  if not samples:
    raise UserError(f"{args.input}: no sample to work on")
  return samples


def _run_rules(
  args: argparse.Namespace,
  items: list[Item],
  corpus: local.Corpus,
  annotations: Annotations,
) -> int:
  settings = rules_settings(args)
  if args.dry_run:
    return _dry_rules(corpus, settings, items)
  record = vars(settings) | {"corpus": corpus.fingerprint()}
  job = _open(args, items, corpus.lexicon, annotations, local.INJECTOR, record)
  with job:
    local.run(job, corpus, settings)
    return _finish(args, job)


def _dry_rules(corpus: local.Corpus, settings: Settings, items: list) -> int:
  answers = sum(len(item.answers) for item in items)
  print(f"{len(items)} items, {answers} answers; nothing is written")
  for item in items[:3]:
    rejected, edits = local.rewrite(corpus, settings, item, 0)
    print(f"\nid {item.sample.id} ({item.category})")
    for old, new in zip(item.answers, rejected, strict=True):
      print(f"  correct: {old}\n  wrong:   {new}")
    print(f"  edits:   {json.dumps(edits, ensure_ascii=False)}")
  return 0


def _run_server(
  args: argparse.Namespace,
  items: list[Item],
  lexicon: Lexicon,
  annotations: Annotations,
) -> int:
  options = server_options(args)
  pictures = live.Pictures(
    Path(args.image_dir), args.image_size, options.price, args.reply_tokens
  )
  if args.dry_run:
    live.dry_run(items, options, pictures)
    return 0
  api_key(options)  # its absence is said before anything is written
  name = live.injector_name(options, args.injector)
  record = {"temperature": args.temperature, "image_size": args.image_size}
  job = _open(args, items, lexicon, annotations, name, record)
  with job:
    if args.injector == "openai":
      live.run(job, options, pictures)
    else:
      folder = Paths(Path(args.out)).batches
      bounds = args.batch_requests, int(args.batch_megabytes * 1e6)
      batch.BatchRun(job, options, pictures, folder, args.poll, *bounds).run()
    return _finish(args, job)


def _open(
  args: argparse.Namespace,
  items: list[Item],
  lexicon: Lexicon,
  annotations: Annotations,
  name: str,
  record: dict[str, Any],
) -> Job:
  """The job on its journal; `record` is what a resumed run must share."""
  paths = Paths(Path(args.out))
  if not args.resume:
    old = set_aside(paths.journal, paths.batches)
    if old:
      print(f"the journal of the run before is now {old}")
  bounds = limits(args)
  record = record | {
    "injector": name,
    "limits": vars(bounds),
    "tries": args.tries,
  }
  return Job(
    items=items,
    journal=Journal(paths.journal, record),
    limits=bounds,
    lexicon=lexicon,
    annotations=annotations,
    tries=args.tries,
    injector=name,
    max_cost=args.max_cost,
  )


def _finish(args: argparse.Namespace, job: Job) -> int:
  """Writes pairs, rejected items and summary; says what is left to do."""
  paths = Paths(Path(args.out))
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
