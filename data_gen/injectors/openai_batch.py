"""`--injector openai-batch`: the same requests through the Batch API."""

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from data_gen.injectors import server_flags
from data_gen.injectors.openai_live import OpenAI, completion_tokens
from data_gen.items import Item
from data_gen.job import Job, Paths
from povid_jax import bounds, progress
from povid_jax.errors import UserError
from povid_jax.llm import Failure, Reply, Request
from povid_jax.llm.batches import Batches

# Rounds in a row without any reply before the run stops.
_IDLE_ROUNDS = 3


class OpenAIBatch(OpenAI):
  """The same through the Batch API."""

  name = "openai-batch"
  summary = "like openai, but through the Batch API at half the price"

  @staticmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    server_flags.add_server(parser)
    add = parser.add_argument_group("--injector openai-batch").add_argument
    add("--poll", type=bounds.PAUSE, default=60.0,
        metavar="SECONDS",
        help="seconds between two checks of a batch")  # fmt: skip
    add("--batch-requests", type=bounds.whole(1), default=50_000, metavar="N",
        help="requests in one batch, at most")  # fmt: skip
    add("--batch-megabytes", type=bounds.number(above=0, most=1e6),
        default=200, metavar="N",
        help="size of one batch file, at most")  # fmt: skip

  def run(self, job: Job) -> None:
    args = self.args
    most = args.batch_requests, int(args.batch_megabytes * 1e6)
    folder = Paths(Path(args.out)).batches
    batches = Batches(
      job.journal,
      self.options,
      folder,
      args.poll,
      *most,
      note=job.note,
      lost="put it back, or start from the beginning with --no-resume",
    )
    with contextlib.closing(batches):
      _Rounds(self, job, batches).run()


class _Rounds:
  """Rounds of batches; each asks again for what the one before left."""

  def __init__(self, injector: OpenAIBatch, job: Job, batches: Batches):
    self._injector = injector
    self._job = job
    self._batches = batches
    self._items = {item.key: item for item in job.items}
    self._check()

  def _check(self) -> None:
    """Raises UserError if an open batch has items that this command leaves out,
    because their replies would be lost.
    """
    for batch in self._batches.open():
      names = self._batches.names(batch)
      lost = sum(_key(name) not in self._items for name in names)
      if lost:
        raise UserError(
          f"an open batch holds {lost} items that this command would not "
          "process; finish the batch first, with the --input, --limit and "
          "--categories that started it"
        )

  def run(self) -> None:
    """Runs batches until no item is left.

    Raises:
      UserError: the server refuses the key, or several rounds in a row bring
        nothing; what was done is in the journal.
    """
    idle = 0
    while True:
      self._plan()
      if not self._batches.open():
        return
      before = self._progress()
      self._batches.work_off(self._request_of, self._take)
      self._job.check_patience()  # only after every paid reply is read
      self._job.problem = self._batches.problem or self._job.problem
      idle = 0 if self._progress() > before else idle + 1
      if idle >= _IDLE_ROUNDS:
        raise UserError(
          f"{idle} rounds of batches returned no reply "
          f"({self._batches.problem}); run the same command again to continue"
        )

  def _progress(self) -> int:
    counts = self._job.journal.counts
    return counts["accepted"] + counts["refused"]

  def _plan(self) -> None:
    """A batch of what is pending and in no open one."""
    waiting: set[str] = set()
    for batch in self._batches.open():
      waiting |= {_key(name) for name in self._batches.names(batch)}
    items = [i for i in self._job.pending() if i.key not in waiting]
    self._batches.plan(self._requests(self._affordable(items)))

  def _affordable(self, items: list[Item]) -> list[Item]:
    """Those that --max-cost still pays for, by estimate."""
    if self._job.max_cost is None:
      return items
    left = self._job.max_cost - self._job.journal.cost
    for batch in self._batches.open():
      names = self._batches.names(batch)
      left -= sum(self._estimate(self._items[_key(name)]) for name in names)
    chosen = []
    for item in items:
      left -= self._estimate(item)
      if left < 0:
        break
      chosen.append(item)
    return chosen

  def _estimate(self, item: Item) -> float:
    try:
      request = self._injector.asker.request(item, 0)
    except UserError:
      return 0.0  # the item is given up without a request
    return self._injector.options.price.cost(
      request.tokens, completion_tokens(item), batch=True
    )

  def _requests(self, items: list[Item]) -> Iterator[Request]:
    """Requests under names that tell the attempt."""
    for item in progress.bar(items, desc="requests", unit="items"):
      attempt = self._job.journal.tries[item.key]
      request = self._injector.asker.make(self._job, item)
      if request is not None:
        yield dataclasses.replace(request, key=f"{request.key}/{attempt}")

  def _request_of(self, name: str, batch: dict) -> Request | None:
    del batch
    key, attempt = name.rsplit("/", 1)
    journal = self._job.journal
    if journal.finished(key) or journal.tries[key] > int(attempt):
      return None
    schema = self._injector.asker.task.schema
    return Request(key, (), schema, context=self._items[key])

  def _take(self, request: Request, outcome: Reply | Failure) -> None:
    self._injector.asker.settle(self._job, request.context, outcome)


def _key(name: str) -> str:
  return name.rsplit("/", 1)[0]
