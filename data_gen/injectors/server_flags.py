"""The flags of injectors that ask an OpenAI-compatible server."""

import argparse
from collections.abc import Callable

from data_gen.injectors.prompts import ROOM
from povid_jax import bounds
from povid_jax.errors import UserError
from povid_jax.llm import Options


def add_server(parser: argparse.ArgumentParser) -> None:
  """Adds the flags; injectors that share them add them once."""
  if "--base-url" in parser._option_string_actions:
    return
  add = parser.add_argument_group(
    "--injector openai, openai-batch"
  ).add_argument
  add("--model", help="name of the model on the server")
  add("--base-url", help="address of the server (default: OpenAI's own)")
  add("--max-cost", type=bounds.number(), metavar="DOLLARS", help=(
    "stop sending requests when this is spent, earlier runs included"
  ))  # fmt: skip
  add("--prices", metavar="FILE", help=(
    "price table (default: povid_jax/llm/prices.json, which you can copy and "
    "edit)"
  ))  # fmt: skip
  add("--rpm", type=bounds.number(above=0), help="requests a minute, at most")
  add("--tpm", type=bounds.number(above=0), help="tokens a minute, at most")
  add(
    "--temperature",
    type=bounds.TEMPERATURE,
    help="sampling temperature (default: the server's)",
  )
  add("--correct", action="store_true", help=(
    "the answers in --input are a model's own; the server corrects them: "
    "chosen is the corrected answer, rejected the model's"
  ))  # fmt: skip
  add("--plain", action="store_true", help=(
    "never request a JSON schema (a server that refuses or ignores it is "
    "detected anyway, at the cost of one request)"
  ))  # fmt: skip
  add("--patience", type=bounds.whole(), default=20, metavar="N", help=(
    "stop after N items in a row without a usable reply; these items are "
    "tried again later (default 20; 0: never stop)"
  ))  # fmt: skip
  add("--reply-tokens", type=bounds.whole(1), default=ROOM, metavar="N", help=(
    "extra tokens in a reply beyond the length of the answers, doubled for a "
    "new attempt (default %(default)s; models that reason first need some "
    "thousands)"
  ))  # fmt: skip
  add_requests(add)


def add_requests(add: Callable[..., object]) -> None:
  """Adds the flags for requests to a server."""
  options = Options("")
  add("--concurrency", type=bounds.CONCURRENCY, default=options.concurrency,
      help="requests in flight at a server (default %(default)s)")  # fmt: skip
  add("--timeout", type=bounds.TIMEOUT, default=options.timeout,
      metavar="SECONDS", help="total time of one request")  # fmt: skip
  add("--retries", type=bounds.RETRIES, default=options.retries, metavar="N",
      help="new attempts for 429, 5xx, time-outs, drops")  # fmt: skip
  add("--backoff", type=bounds.PAUSE, default=options.backoff,
      metavar="SECONDS",
      help="wait before the first new attempt; then doubled")  # fmt: skip
  add("--image-size", type=bounds.PIXELS, default=768, metavar="PIXELS",
      help="longest side at which pictures are sent")  # fmt: skip


def server_options(args: argparse.Namespace, name: str) -> Options:
  """The server; UserError where something it needs is missing."""
  if not args.model:
    raise UserError(f"--injector {name} needs --model")
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
    plain=args.plain,
  )
  if args.max_cost is not None and not options.price.known:
    raise UserError(
      f"--max-cost: no price for {args.model} in the table; give one with "
      "--prices FILE"
    )
  return options
