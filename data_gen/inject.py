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

from data_gen import live, local
from data_gen.gates import Limits
from data_gen.items import (
  Annotations,
  load_annotations,
  load_samples,
  make_items,
)
from data_gen.job import Job, Paths, table
from data_gen.journal import Journal, set_aside
from data_gen.rules.injector import Settings, parse_edits
from data_gen.rules.lexicon import Lexicon
from povid_jax.data.pairs import Sample, resolve_image
from povid_jax.errors import UserError
from povid_jax.files import atomic_write
from povid_jax.llm import Options, api_key

INCOMPLETE = 3  # exit code: stopped by --max-cost, items are left


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--input", required=True, help="samples (.json, .jsonl) or COCO captions")
  add("--out", required=True, help="pairs to write, .jsonl or .json")
  add("--image-dir", help="folder of the pictures (needed by the openai ones)")
  add("--annotations", nargs="+", default=[], metavar="FILE", help=(
    "COCO instances_*.json (and captions_*.json): what is really in the "
    "pictures; without it, what their answers mention"
  ))  # fmt: skip
  add("--injector", choices=("rules", "openai", "openai-batch"),
      default="rules", help="who writes the wrong answers")  # fmt: skip
  add("--limit", type=int, metavar="N", help="only the first N samples")
  add("--categories", nargs="+", default=[], metavar="NAME", help=(
    "only samples of these categories (their own `category`, or captioning, "
    "reasoning, vqa by the look of the question)"
  ))  # fmt: skip
  add("--pairs-per-sample", type=int, default=1, metavar="N",
      help="different pairs made from each sample (default 1)")  # fmt: skip
  add("--seed", type=int, default=0, help="another seed, other pairs")
  add("--tries", type=int, default=3, metavar="N", help=(
    "wrong answers asked for before an item lands in rejected.jsonl"
  ))  # fmt: skip
  add("--on-bad-sample", choices=("raise", "skip"), default="raise", help=(
    "skip: go on, and list what was wrong in skipped.jsonl"
  ))  # fmt: skip
  add("--resume", action=argparse.BooleanOptionalAction, default=True, help=(
    "continue from the journal (default); --no-resume keeps the old journal "
    "under another name and starts afresh"
  ))  # fmt: skip
  add("--dry-run", action="store_true", help=(
    "only counts, three samples, and for the openai ones tokens and cost"
  ))  # fmt: skip
  _add_gates(parser)
  _add_rules(parser)
  _add_server(parser)


def _add_server(parser: argparse.ArgumentParser) -> None:
  options = Options("")
  add = parser.add_argument_group(
    "--injector openai, openai-batch"
  ).add_argument
  add("--model", help="its name on the server")
  add("--base-url", help="of the server (default: OpenAI's own)")
  add("--max-cost", type=float, metavar="DOLLARS", help=(
    "stop asking when this is spent, earlier runs included"
  ))  # fmt: skip
  add("--prices", metavar="FILE", help=(
    "price table; default povid_jax/llm/prices.json, copy and edit it"
  ))  # fmt: skip
  add("--concurrency", type=int, default=options.concurrency,
      help="requests in flight")  # fmt: skip
  add("--rpm", type=float, help="requests a minute, at most")
  add("--tpm", type=float, help="tokens a minute, at most")
  add("--timeout", type=float, default=options.timeout, metavar="SECONDS",
      help="for one request, all in all")  # fmt: skip
  add("--retries", type=int, default=options.retries, metavar="N",
      help="new attempts for 429, 5xx, time-outs, drops")  # fmt: skip
  add("--backoff", type=float, default=options.backoff, metavar="SECONDS",
      help="before the first new attempt; then doubled")  # fmt: skip
  add("--temperature", type=float, help="default: the server's")
  add("--image-size", type=int, default=768, metavar="PIXELS",
      help="longest side at which pictures are sent")  # fmt: skip
  add("--poll", type=float, default=60.0, metavar="SECONDS",
      help="between two looks at a batch")  # fmt: skip
  add("--batch-requests", type=int, default=50_000, metavar="N",
      help="requests in one batch, at most")  # fmt: skip
  add("--batch-megabytes", type=float, default=200, metavar="N",
      help="size of one batch file, at most")  # fmt: skip


def _add_gates(parser: argparse.ArgumentParser) -> None:
  limits = Limits()
  add = parser.add_argument_group("quality gates").add_argument
  add("--min-length", type=float, default=limits.min_length,
      help="least words, as a share of the correct answer's")  # fmt: skip
  add("--max-length", type=float, default=limits.max_length,
      help="most words, as a share of the correct answer's")  # fmt: skip
  add("--min-similarity", type=float, default=limits.min_similarity,
      help="least share of words kept in order, 0..1")  # fmt: skip


def _add_rules(parser: argparse.ArgumentParser) -> None:
  settings = Settings()
  edits = ",".join(f"{k}={v}" for k, v in settings.edits.items())
  add = parser.add_argument_group("--injector rules").add_argument
  add("--edits", default=edits, metavar="KIND=P,...", help=(
    "probability of each kind of edit in every --words-per-edit words; kinds "
    f"left out do not occur (default {edits})"
  ))  # fmt: skip
  add("--words-per-edit", type=int, default=settings.words_per_edit,
      help="longer answers get more edits")  # fmt: skip
  add("--replace-within", choices=("group", "any"), default=settings.within,
      help=(
        "group: an object becomes one of its kind (an animal an animal); any: "
        "whatever is likely beside the other objects, for plain lists"
      ))  # fmt: skip
  add("--closed-vocabulary", action="store_true",
      help="only words of the corpus (for a small tokenizer)")  # fmt: skip


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
        raise UserError(f"{args.input}: id {sample.id!a}: {error}") from error
      on_bad(UserError(f"id {sample.id!a}: {error}"))
  if problems:
    with atomic_write(paths.skipped) as file:
      file.writelines(json.dumps({"reason": str(p)}) + "\n" for p in problems)
    print(f"{len(problems)} samples left out, see {paths.skipped}")
  if not samples:
    raise UserError(f"{args.input}: no sample to work on")
  return samples


def _rules_settings(args: argparse.Namespace) -> Settings:
  if args.words_per_edit < 1:
    raise UserError("--words-per-edit: expected 1 or more")
  return Settings(
    edits=parse_edits(args.edits),
    words_per_edit=args.words_per_edit,
    within=args.replace_within,
    closed=args.closed_vocabulary,
    seed=args.seed,
  )


def _limits(args: argparse.Namespace) -> Limits:
  return Limits(args.min_length, args.max_length, args.min_similarity)


def _check(args: argparse.Namespace) -> None:
  for name in ("limit", "pairs_per_sample", "tries"):
    value = getattr(args, name)
    if value is not None and value < 1:
      flag = "--" + name.replace("_", "-")
      raise UserError(f"{flag}: want 1 or more, got {value}")
  if Path(args.out).suffix not in (".json", ".jsonl"):
    raise UserError(
      f"--out {args.out}: want a name that ends in .jsonl or .json"
    )


def main(args: argparse.Namespace) -> int:
  _check(args)
  paths = Paths(Path(args.out))
  annotations = load_annotations(args.annotations)
  lexicon = Lexicon(annotations.categories)
  samples = _read(args, paths)
  items = make_items(samples, args.pairs_per_sample, args.categories)
  if not items:
    raise UserError(f"no sample is of {args.categories}; see --categories")
  if args.limit:
    items = items[: args.limit * args.pairs_per_sample]
  if args.injector == "rules":
    # Statistics come from every sample, so that --limit changes no pair.
    corpus = local.learn_corpus(make_items(samples), lexicon, annotations)
    return _run_rules(args, paths, items, corpus, annotations)
  return _run_server(args, paths, items, lexicon, annotations)


def _options(args: argparse.Namespace) -> Options:
  if not args.model:
    raise UserError(f"--injector {args.injector} needs --model")
  if not args.image_dir:
    raise UserError(f"--injector {args.injector} needs --image-dir")
  options = Options(
    model=args.model,
    base_url=args.base_url,
    concurrency=args.concurrency,
    rpm=args.rpm,
    tpm=args.tpm,
    timeout=args.timeout,
    retries=args.retries,
    backoff=args.backoff,
    temperature=args.temperature,
    prices=args.prices,
  )
  if args.max_cost is not None and not options.price.known:
    raise UserError(
      f"--max-cost: no price for {args.model} in the table; give one with "
      "--prices FILE"
    )
  return options


def _run_server(
  args: argparse.Namespace,
  paths: Paths,
  items: list,
  lexicon: Lexicon,
  annotations: Annotations,
) -> int:
  options = _options(args)
  pictures = live.Pictures(Path(args.image_dir), args.image_size, options.price)
  if args.dry_run:
    live.dry_run(items, options, pictures)
    return 0
  api_key(options)  # its absence is said before anything is written
  name = live.injector_name(options, args.injector)
  record = {
    "injector": name,
    "temperature": args.temperature,
    "image_size": args.image_size,
    "limits": vars(_limits(args)),
    "tries": args.tries,
  }
  journal = open_journal(args, paths, record)
  job = Job(
    items,
    journal,
    _limits(args),
    lexicon,
    annotations,
    args.tries,
    name,
    args.max_cost,
  )
  with job:
    live.run(job, options, pictures)
  return finish(job, paths)


def _run_rules(
  args: argparse.Namespace,
  paths: Paths,
  items: list,
  corpus: local.Corpus,
  annotations: Annotations,
) -> int:
  settings = _rules_settings(args)
  if args.dry_run:
    return _dry_rules(corpus, settings, items)
  record = {
    "injector": local.INJECTOR,
    "edits": settings.edits,
    "words_per_edit": settings.words_per_edit,
    "within": settings.within,
    "closed": settings.closed,
    "seed": settings.seed,
    "limits": vars(_limits(args)),
    "tries": args.tries,
  }
  journal = open_journal(args, paths, record)
  job = Job(
    items,
    journal,
    _limits(args),
    corpus.lexicon,
    annotations,
    args.tries,
    local.INJECTOR,
  )
  with job:
    local.run(job, corpus, settings)
  return finish(job, paths)


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


def open_journal(
  args: argparse.Namespace, paths: Paths, record: dict
) -> Journal:
  if not args.resume:
    old = set_aside(paths.journal)
    if old:
      print(f"the journal of the run before is now {old}")
  return Journal(paths.journal, record)


def finish(job: Job, paths: Paths) -> int:
  """Writes pairs, rejected items and summary; says what is left to do."""
  job.write_outputs(paths)
  summary = job.summary()
  with atomic_write(paths.summary) as file:
    json.dump(summary, file, indent=2)
    file.write("\n")
  job.journal.close()
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
