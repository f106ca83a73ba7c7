"""The options of `data_gen inject`, and what they come to."""

import argparse
import math
from pathlib import Path

from data_gen.gates import Limits
from data_gen.prompts import ROOM
from data_gen.rules.injector import Settings, parse_edits
from povid_jax.errors import UserError
from povid_jax.llm import Options


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
  add("--reply-tokens", type=int, default=ROOM, metavar="N", help=(
    "room in a reply beyond the answers' own length, doubled for a new try "
    "(default %(default)s; models that reason first need some thousands)"
  ))  # fmt: skip
  add("--poll", type=float, default=60.0, metavar="SECONDS",
      help="between two looks at a batch")  # fmt: skip
  add("--batch-requests", type=int, default=50_000, metavar="N",
      help="requests in one batch, at most")  # fmt: skip
  add("--batch-megabytes", type=float, default=200, metavar="N",
      help="size of one batch file, at most")  # fmt: skip


def _add_gates(parser: argparse.ArgumentParser) -> None:
  bounds = Limits()
  add = parser.add_argument_group("quality gates").add_argument
  add("--min-length", type=float, default=bounds.min_length,
      help="least words, as a share of the correct answer's")  # fmt: skip
  add("--max-length", type=float, default=bounds.max_length,
      help="most words, as a share of the correct answer's")  # fmt: skip
  add("--min-similarity", type=float, default=bounds.min_similarity,
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
  add("--insert-above", type=float, default=settings.insert_above, metavar="P",
      help="insert only objects at least this likely beside those that are "
      "there, 0..1 (default %(default)s)")  # fmt: skip
  add("--replace-within", choices=("group", "any"), default=settings.within,
      help=(
        "group: an object becomes one of its kind (an animal an animal); any: "
        "whatever is likely beside the other objects, for plain lists"
      ))  # fmt: skip
  add("--closed-vocabulary", action="store_true",
      help="only words of the corpus (for a small tokenizer)")  # fmt: skip


def rules_settings(args: argparse.Namespace) -> Settings:
  """What the rules may do; UserError for values out of range."""
  if args.words_per_edit < 1:
    raise UserError("--words-per-edit: expected 1 or more")
  return Settings(
    edits=parse_edits(args.edits),
    words_per_edit=args.words_per_edit,
    insert_above=args.insert_above,
    within=args.replace_within,
    closed=args.closed_vocabulary,
    seed=args.seed,
  )


def server_options(args: argparse.Namespace) -> Options:
  """The server; UserError where something it needs is missing."""
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


def limits(args: argparse.Namespace) -> Limits:
  """The bounds of the quality gates."""
  return Limits(args.min_length, args.max_length, args.min_similarity)


def _flag(name: str) -> str:
  return "--" + name.replace("_", "-")


def check(args: argparse.Namespace) -> None:
  """UserError for options that make no sense."""
  for name in (
    "limit",
    "pairs_per_sample",
    "tries",
    "concurrency",
    "image_size",
    "reply_tokens",
    "batch_requests",
  ):
    value = getattr(args, name)
    if value is not None and value < 1:
      raise UserError(f"{_flag(name)}: want 1 or more, got {value}")
  for name in ("timeout", "batch_megabytes"):
    value = getattr(args, name)
    if not 0 < value < math.inf:
      raise UserError(f"{_flag(name)}: want more than 0, got {value:g}")
  for name in ("max_cost", "poll", "backoff"):
    value = getattr(args, name)
    if value is not None and not 0 <= value < math.inf:
      raise UserError(f"{_flag(name)}: want 0 or more, got {value:g}")
  if Path(args.out).suffix not in (".json", ".jsonl"):
    raise UserError(
      f"--out {args.out}: want a name that ends in .jsonl or .json"
    )
