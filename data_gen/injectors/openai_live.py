"""`--injector openai`: one request per item, many at a time."""

import argparse
import asyncio
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_gen.injectors import prompts, server_flags
from data_gen.injectors.base import Injector, World
from data_gen.injectors.refusals import Refusals
from data_gen.items import Item
from data_gen.job import Job
from povid_jax import progress
from povid_jax.data.picture import Picture
from povid_jax.errors import UserError
from povid_jax.llm import (
  Failure,
  Options,
  Price,
  Reply,
  Request,
  api_key,
  image_part,
)
from povid_jax.llm.chat import Chat
from povid_jax.llm.prices import dollars

# Items in a row that no attempt got through: the server is down, and going on
# would only burn through the list.
_OUTAGE = 20


@dataclass(frozen=True)
class Pictures:
  """Where pictures are, and the size at which they are sent.

  Attributes:
    size: longest side in pixels.
    price: tells their tokens.
    room: tokens of a reply beyond those of the answers.
  """

  size: int
  price: Price
  room: int = prompts.ROOM

  def request(self, item: Item, attempt: int) -> Request:
    """The request for an item.

    Raises:
      UserError: a picture is missing, broken or outside the folder.
    """
    parts = [self._part(picture) for picture in item.sample.images]
    request = prompts.request(item, parts, attempt, self.room)
    tokens = sum(self.price.image_tokens(w, h) for _, w, h in parts)
    return replace(request, image_tokens=tokens)

  def again(self, request: Request, attempt: int) -> Request:
    """The next try of an item; its pictures are not read a second time."""
    content = request.messages[-1]["content"]
    parts = [(part, 0, 0) for part in content if "image_url" in part]
    new = prompts.request(request.context, parts, attempt, self.room)
    return replace(new, image_tokens=request.image_tokens)

  def _part(self, picture: Picture) -> tuple:
    data = picture.read()
    try:
      return image_part(data, self.size)
    except UserError as error:
      raise UserError(f"image {picture.name!r}: {error}") from error


class OpenAI(Injector):
  """A vision model behind any OpenAI-compatible server.

  Attributes:
    options: the server.
    pictures: makes the requests.
  """

  name = "openai"
  summary = "a vision model behind any OpenAI-compatible server"
  looks = True

  def __init__(self, args: argparse.Namespace):
    super().__init__(args)
    self.options = server_flags.server_options(args, self.name)
    self.pictures = Pictures(
      args.image_size,
      self.options.price,
      args.reply_tokens,
    )

  @staticmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    server_flags.add_server(parser)

  @staticmethod
  def check_flags(args: argparse.Namespace) -> None:
    server_flags.check(args)

  @property
  def label(self) -> str:
    return f"{self.name}/{self.options.model}/prompt-{prompts.VERSION}"

  def settings(self) -> dict[str, Any]:
    return super().settings() | {
      "temperature": self.args.temperature,
      "image_size": self.args.image_size,
    }

  def prepare(self, world: World) -> None:
    super().prepare(world)
    if not self.args.dry_run:
      api_key(self.options)  # its absence is said before anything is written

  def dry_run(self, items: Sequence[Item]) -> None:
    dry_run(items, self.options, self.pictures)

  def run(self, job: Job) -> None:
    """Asks for all pending items until they are finished or money runs out.

    Raises:
      UserError: the key is refused, the model is unknown, or the server does
        not answer any more; what was done is in the journal.
    """
    asyncio.run(_run(job, self.options, self.pictures))


def make_request(job: Job, pictures: Pictures, item: Item) -> Request | None:
  """The request for an item; None for one whose picture cannot be read, which
  is given up with the reason."""
  try:
    return pictures.request(item, job.journal.tries[item.key])
  except UserError as error:
    job.lose(item, "bad_image", str(error))
    return None


def settle_reply(job: Job, item: Item, reply: Reply, **facts: Any) -> bool:
  """Judges a reply and records it with what it cost."""
  found = prompts.read(item, reply)
  return job.settle(
    item,
    found.rejected,
    found.edits,
    found.refused,
    usage=reply.usage,
    cost=reply.cost,
    **facts,
  )


async def _run(job: Job, options: Options, pictures: Pictures) -> None:
  async with Chat(options, _watch(job)) as chat:

    def stop() -> bool:
      cost = job.journal.cost + chat.reserved
      return job.max_cost is not None and cost >= job.max_cost

    handle = _Handler(job, pictures)
    make = functools.partial(make_request, job, pictures)
    await chat.run(iter(job.pending()), make, handle, stop)
    handle.end()


def _watch(job: Job) -> Callable:
  def watch(event: str, request: Request, facts: dict) -> None:
    job.journal.write(event, key=request.key, **facts)

  return watch


class _Handler:
  """Takes outcomes; returns the next try of an item that is not finished."""

  def __init__(self, job: Job, pictures: Pictures):
    self._job = job
    self._pictures = pictures
    self._lost = 0
    self._refusals = Refusals(job)

  def __call__(
    self, request: Request, outcome: Reply | Failure
  ) -> Request | None:
    item: Item = request.context
    if isinstance(outcome, Failure):
      self._fail(item, outcome)
      return None
    self._lost = 0
    self._refusals.answered()
    if settle_reply(self._job, item, outcome):
      return None
    return self._pictures.again(request, self._job.journal.tries[item.key])

  def end(self) -> None:
    """UserError if the server has refused everything."""
    self._refusals.end()

  def _fail(self, item: Item, failure: Failure) -> None:
    if failure.final:
      self._refusals.add(item, failure)
      if self._refusals.systematic:
        self.end()
      return
    self._lost += 1
    if self._lost >= _OUTAGE:
      raise UserError(
        f"{self._lost} items in a row failed all their attempts (the last one: "
        f"{failure.kind} {failure.detail[:120]}); the same command continues "
        "when the server is back"
      )


def dry_run(
  items: Sequence[Item], options: Options, pictures: Pictures
) -> None:
  """Prints counts, tokens and cost, and three prompts; asks nothing."""
  prompt = completion = 0
  usable: list[Item] = []
  for item in progress.bar(items, desc="estimate", unit="items"):
    try:
      request = pictures.request(item, 0)
    except UserError:
      continue
    usable.append(item)
    prompt += request.tokens
    completion += completion_tokens(item)
  price = options.price
  cost = price.cost(prompt, completion)
  print(f"model {options.model}: {len(usable)} requests")
  if lost := len(items) - len(usable):
    print(f"{lost} items have a picture that cannot be read: not asked")
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
    request = pictures.request(item, 0)
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
