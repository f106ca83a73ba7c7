"""`--injector openai-batch`: the same requests through the Batch API.

Each batch goes planned -> uploaded -> submitted -> settled, and the journal has
every step, so a restart takes each batch up where it was: a file that was
uploaded is not uploaded again, a batch that was submitted is looked for on the
server before it is submitted (a kill may fall between submission and journal),
and the rows of a batch that is being read are skipped where they are settled.
"""

import argparse
import collections
import dataclasses
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from data_gen.injectors import prompts, server_flags
from data_gen.injectors.base import want_at_least
from data_gen.injectors.openai_live import (
  OpenAI,
  Pictures,
  completion_tokens,
  make_request,
  settle_reply,
)
from data_gen.injectors.refusals import Refusals
from data_gen.items import Item
from data_gen.job import Job, Paths
from povid_jax import progress
from povid_jax.errors import UserError
from povid_jax.llm import Failure, Options, Request
from povid_jax.llm.batch import (
  MOST_BYTES,
  MOST_REQUESTS,
  BatchClient,
  Row,
  Status,
  custom_ids,
  line,
  write_files,
)
from povid_jax.llm.wire import limit_name, other_limit_name, read_reply

# Rounds in a row that bring nothing before the run stops.
_IDLE_ROUNDS = 3


class OpenAIBatch(OpenAI):
  """The same through the Batch API."""

  name = "openai-batch"
  summary = "the same through the Batch API, at half the price"

  @staticmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    server_flags.add_server(parser)
    add = parser.add_argument_group("--injector openai-batch").add_argument
    add("--poll", type=float, default=60.0, metavar="SECONDS",
        help="between two looks at a batch")  # fmt: skip
    add("--batch-requests", type=int, default=50_000, metavar="N",
        help="requests in one batch, at most")  # fmt: skip
    add("--batch-megabytes", type=float, default=200, metavar="N",
        help="size of one batch file, at most")  # fmt: skip

  @staticmethod
  def check_flags(args: argparse.Namespace) -> None:
    server_flags.check(args)
    want_at_least(args, 1, "batch_requests")
    server_flags.want_finite(args, "batch_megabytes", positive=True)
    server_flags.want_finite(args, "poll")

  def run(self, job: Job) -> None:
    args = self.args
    folder = Paths(Path(args.out)).batches
    bounds = args.batch_requests, int(args.batch_megabytes * 1e6)
    run = BatchRun(job, self.options, self.pictures, folder, args.poll, *bounds)
    run.run()


class BatchRun:
  """Takes pending items through batches until none is left.

  Args:
    job: items, gates and journal.
    options: server and model.
    pictures: makes the requests.
    folder: of the request files; one is removed when its batch is settled.
    poll: seconds between two looks at the server.
    most_requests, most_bytes: limits on one file.
  """

  def __init__(
    self,
    job: Job,
    options: Options,
    pictures: Pictures,
    folder: Path,
    poll: float,
    most_requests: int = MOST_REQUESTS,
    most_bytes: int = MOST_BYTES,
  ):
    self._job = job
    self._options = options
    self._pictures = pictures
    self._folder = folder
    self._poll = poll
    self._limits = (
      min(most_requests, MOST_REQUESTS),
      min(most_bytes, MOST_BYTES),
    )
    self._items = {item.key: item for item in job.items}
    self._client = BatchClient(options)
    self._problem = ""
    self._refusals = Refusals(job)
    self._structured = True
    self._limit = limit_name(options)
    for batch in job.journal.batches.values():  # what the last one had to be
      self._structured = batch.get("structured", self._structured)
      self._limit = batch.get("limit", self._limit)
    self._check()
    self._tidy()

  def _check(self) -> None:
    """Replies to items that this command leaves out would be lost."""
    for batch in self._open():
      names = self._names(batch)
      lost = sum(_key(name) not in self._items for name in names)
      if lost:
        raise UserError(
          f"an open batch holds {lost} items that this command leaves out; "
          "finish it first, with the --input, --limit and --categories that "
          "started it"
        )

  def _tidy(self) -> None:
    """Removes request files of settled batches, and of none."""
    names = {batch["batch"] for batch in self._open()}
    for path in self._folder.glob("*.jsonl"):
      if path.stem not in names:
        path.unlink()

  def run(self) -> None:
    """Rounds of batches; each asks again for what the one before left.

    Raises:
      UserError: the server refuses the key, or several rounds in a row bring
        nothing; what was done is in the journal.
    """
    idle = 0
    try:
      while True:
        self._plan()
        if not self._open():
          return
        before = self._progress()
        self._work_off()
        idle = 0 if self._progress() > before else idle + 1
        if idle >= _IDLE_ROUNDS:
          raise UserError(
            f"{idle} rounds of batches brought no reply ({self._problem}); "
            "the same command continues"
          )
    finally:
      self._client.close()

  def _progress(self) -> int:
    counts = self._job.journal.counts
    return counts["accepted"] + counts["refused"]

  def _open(self) -> list[dict]:
    """Batches that are not settled, oldest first."""
    batches = self._job.journal.batches.values()
    return [b for b in batches if b["event"] != "batch_settled"]

  # Planning.

  def _plan(self) -> None:
    """Writes request files for what is pending and in no open batch."""
    journal = self._job.journal
    waiting = set()
    for batch in self._open():
      waiting |= {_key(name) for name in self._names(batch)}
    items = [i for i in self._job.pending() if i.key not in waiting]
    lines = self._lines(self._affordable(items))
    for path, count in write_files(lines, self._new_paths(), *self._limits):
      journal.write(
        "batch_planned",
        batch=path.stem,
        requests=count,
        structured=self._structured,
        limit=self._limit,
      )

  def _new_paths(self) -> Iterator[Path]:
    while True:
      yield self._folder / f"{uuid.uuid4().hex}.jsonl"

  def _affordable(self, items: list[Item]) -> list[Item]:
    """Those that --max-cost still pays for, by estimate."""
    if self._job.max_cost is None:
      return items
    left = self._job.max_cost - self._job.journal.cost
    for batch in self._open():
      names = self._names(batch)
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
      request = self._pictures.request(item, 0)
    except UserError:
      return 0.0  # it is given up, not asked
    return self._options.price.cost(
      request.tokens, completion_tokens(item), batch=True
    )

  def _lines(self, items: list[Item]) -> Iterator[bytes]:
    for item in progress.bar(items, desc="requests", unit="items"):
      attempt = self._job.journal.tries[item.key]
      request = make_request(self._job, self._pictures, item)
      if request is not None:
        named = _named(request, attempt)
        yield line(named, self._options, self._structured, self._limit)

  def _path(self, batch: dict) -> Path:
    return self._folder / f"{batch['batch']}.jsonl"

  def _names(self, batch: dict) -> list[str]:
    path = self._path(batch)
    if not path.exists():
      raise UserError(
        f"{path} is gone, and its batch is not settled; put it back, or start "
        "afresh with --no-resume"
      )
    return custom_ids(path)

  # Working off.

  def _work_off(self) -> None:
    """Submits, waits for and settles every open batch."""
    for batch in self._open():
      self._submit(batch)
    while batches := self._open():
      for batch in batches:
        status = self._client.status(batch["remote"])
        self._job.note(f"{len(batches)} batches, {status.state} {status.done}")
        if status.ended:
          self._problem = status.problem or self._problem
          self._settle(batch, status)
      if self._open():
        time.sleep(self._poll)
    self._refusals.end()

  def _submit(self, batch: dict) -> None:
    journal, name = self._job.journal, batch["batch"]
    if "remote" in batch:
      return
    file_id = batch.get("file")
    if file_id is None:
      file_id = self._client.upload(self._path(batch))
      journal.write("batch_uploaded", batch=name, file=file_id)
    since = batch.get("since")
    if since is None:
      now = time.time()
      journal.write("batch_submitting", batch=name, since=now)
      remote = self._client.submit(file_id, name, now)
    else:  # a run before this one was about to, and may have done so
      remote = self._client.submit(file_id, name, since, maybe=True)
    journal.write("batch_submitted", batch=name, remote=remote)

  def _settle(self, batch: dict, status: Status) -> None:
    """Takes in all rows; what has none is pending for the next round."""
    missing = dict.fromkeys(self._names(batch))
    failed: collections.Counter = collections.Counter()
    usage: collections.Counter = collections.Counter()
    cost = 0.0
    structured = batch.get("structured", True)
    for file_id in status.files:
      for row in self._client.rows(file_id):
        if row.custom_id not in missing:
          continue
        del missing[row.custom_id]
        failure = self._take(row, structured)
        if failure is not None:
          failed[failure.kind] += 1
          usage.update(failure.usage)
          cost += failure.cost
          self._problem = f"{failure.kind} {failure.detail[:120]}"
    if missing:
      reason = "missing" if status.state == "completed" else status.state
      failed[reason] += len(missing)
    self._job.journal.write(
      "batch_settled",
      batch=batch["batch"],
      state=status.state,
      failed=failed,
      usage=usage,
      cost=cost,
    )
    self._path(batch).unlink()
    if self._refusals.systematic:
      self._refusals.end()

  def _take(self, row: Row, structured: bool) -> Failure | None:
    """Settles one row unless that is done; returns what went wrong."""
    key, attempt = row.custom_id.rsplit("/", 1)
    item, journal = self._items[key], self._job.journal
    if journal.finished(key) or journal.tries[key] > int(attempt):
      return None  # taken in by a run that was killed while it settled
    if row.failure is None:
      try:
        self._take_body(item, row, structured)
      except Failure as failure:
        return failure
    elif row.failure.final and not self._ask_otherwise(row.failure, structured):
      self._refusals.add(item, row.failure)
    return row.failure

  def _ask_otherwise(self, failure: Failure, structured: bool) -> bool:
    """Whether the next round can ask for the same in a form that the server
    takes: in plain text, or with the other name of the bound on a reply."""
    if structured and "response_format" in failure.detail:
      self._structured = False
      return True
    first = limit_name(self._options)
    other = other_limit_name(first, failure.detail)
    self._limit = other or self._limit
    return other is not None

  def _take_body(self, item: Item, row: Row, structured: bool) -> None:
    request = Request(item.key, (), prompts.SCHEMA)
    price = self._options.price
    reply = read_reply(request, row.body, structured, price, batch=True)
    self._refusals.answered()
    settle_reply(self._job, item, reply)


def _key(name: str) -> str:
  return name.rsplit("/", 1)[0]


def _named(request: Request, attempt: int) -> Request:
  """The request under a name that tells its attempt."""
  return dataclasses.replace(request, key=f"{request.key}/{attempt}")
