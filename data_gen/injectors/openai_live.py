"""`--injector openai`: one request per item, many at a time."""

import argparse
import asyncio
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_gen.injectors import prompts, server_flags
from data_gen.injectors.asking import Asker, Task
from data_gen.injectors.base import Injector, World
from data_gen.injectors.correct import CORRECT
from data_gen.items import Item
from data_gen.job import Job
from povid_jax import progress
from povid_jax.errors import UserError
from povid_jax.llm import (
  Failure,
  Options,
  Reply,
  Request,
  checked_key,
)
from povid_jax.llm.chat import Chat
from povid_jax.llm.prices import dollars

# Items in a row without any successful request: the server is down, and the run
# would only use up the list.
_OUTAGE = 20


INJECT = Task(
  label=f"prompt-{prompts.VERSION}",
  request=prompts.request,
  read=prompts.read,
  schema=prompts.SCHEMA,
)


class OpenAI(Injector):
  """A vision model behind any OpenAI-compatible server.

  Attributes:
    options: the server.
    asker: makes the requests and settles what comes back.
  """

  name = "openai"
  summary = "a vision model behind any OpenAI-compatible server"
  asks = True
  looks = True

  def __init__(self, args: argparse.Namespace):
    super().__init__(args)
    self.options = server_flags.server_options(args, self.name)
    self.price_known = self.options.price.known
    self.asker = Asker(
      CORRECT if args.correct else INJECT,
      args.image_size,
      self.options.price,
      args.reply_tokens,
    )

  @staticmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    server_flags.add_server(parser)

  @property
  def label(self) -> str:
    return f"{self.name}/{self.options.model}/{self.asker.task.label}"

  def settings(self) -> dict[str, Any]:
    plain = {"plain": True} if self.options.plain else {}
    return (
      super().settings()
      | plain
      | {
        "temperature": self.args.temperature,
        "image_size": self.args.image_size,
      }
    )

  def prepare(self, world: World) -> None:
    super().prepare(world)
    if not self.args.dry_run:
      checked_key(self.options)  # checked before anything is written

  def dry_run(self, items: Sequence[Item]) -> None:
    dry_run(items, self.options, self.asker)

  def run(self, job: Job) -> None:
    """Sends requests for all pending items until they are finished or
    --max-cost is spent.

    Raises:
      UserError: the key is refused, the model is unknown, or the server does
        not answer any more; what was done is in the journal.
    """
    asyncio.run(_run(job, self.options, self.asker))


async def _run(job: Job, options: Options, asker: Asker) -> None:
  async with Chat(options, _watch(job)) as chat:

    def stop() -> bool:
      cost = job.journal.cost + chat.reserved
      return job.max_cost is not None and cost >= job.max_cost

    make = functools.partial(asker.make, job)
    await chat.run(iter(job.pending()), make, _Handler(job, asker), stop)


def _watch(job: Job) -> Callable:
  def watch(event: str, request: Request, facts: dict) -> None:
    job.journal.write(event, key=request.key, **facts)

  return watch


class _Handler:
  """Takes outcomes; returns the next try of an item that is not finished."""

  def __init__(self, job: Job, asker: Asker):
    self._job = job
    self._asker = asker
    self._lost = 0

  def __call__(
    self, request: Request, outcome: Reply | Failure
  ) -> Request | None:
    item: Item = request.context
    if isinstance(outcome, Failure) and not outcome.final:
      self._fail(outcome)
      return None
    self._lost = 0
    if self._asker.settle(self._job, item, outcome):
      self._job.check_patience()
      return None
    return self._asker.again(request, self._job.journal.tries[item.key])

  def _fail(self, failure: Failure) -> None:
    """Leaves an item for the next run if all its requests failed."""
    self._job.problem = failure.words
    self._lost += 1
    if self._lost >= _OUTAGE:
      raise UserError(
        f"{self._lost} items in a row failed all their attempts (the last "
        f"one: {failure.words}); run the same command again when the server "
        "works"
      )


def dry_run(items: Sequence[Item], options: Options, asker: Asker) -> None:
  """Prints counts, tokens, cost and three prompts; sends no request."""
  prompt = completion = 0
  usable: list[Item] = []
  for item in progress.bar(items, desc="estimate", unit="items"):
    try:
      request = asker.request(item, 0)
    except UserError:
      continue
    usable.append(item)
    prompt += request.tokens
    completion += completion_tokens(item)
  price = options.price
  cost = price.cost(prompt, completion)
  print(f"model {options.model}: {len(usable)} requests")
  if lost := len(items) - len(usable):
    print(
      f"{lost} items have a picture that cannot be read; no request is sent "
      "for them"
    )
  print(f"about {prompt:,} prompt and {completion:,} completion tokens")
  if price.known:
    half = price.cost(prompt, completion, batch=True)
    print(
      f"about {dollars(cost)}, or {dollars(half)} with --injector openai-batch"
    )
  else:
    print(f"no price for {options.model} in the table; give one with --prices")
  for item in usable[:3]:
    print(f"\n--- id {item.sample.id} ({item.category})")
    request = asker.request(item, 0)
    for message in request.messages:
      print(_shown(message))


def completion_tokens(item: Item) -> int:
  """About what a structured reply takes: answers, some edits, JSON."""
  return 60 + sum(len(answer) for answer in item.answers) * 2 // 4


def _shown(message: Mapping[str, Any]) -> str:
  content = message["content"]
  if isinstance(content, str):
    return f"{message['role']}: {content}"
  parts = [
    part["text"]
    if "text" in part
    else f"<picture, {len(json.dumps(part))} bytes>"
    for part in content
  ]
  return f"{message['role']}: " + "\n".join(parts)
