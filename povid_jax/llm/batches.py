"""Requests through the Batch API, each step in the store before it is taken.

A batch goes planned -> uploaded -> submitted -> settled. A restart takes each
up where it was: a file that was uploaded is not uploaded again, a batch that
was submitted is looked for on the server before it is submitted (a kill may
fall between submission and store), and the rows of a batch that is being read
are skipped where the caller has taken them.
"""

import collections
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
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
from povid_jax.llm.dialect import Dialect
from povid_jax.llm.failures import Failure
from povid_jax.llm.store import Store
from povid_jax.llm.wire import Options, Reply, Request, read_reply

# Takes the outcome of one request of a batch.
Take = Callable[[Request, Reply | Failure], object]


class Batches:
  """The batches of one store.

  Args:
    store: has every step of every batch.
    options: server and model.
    folder: of the request files; one is removed when its batch is settled.
    poll: seconds between two looks at the server.
    most_requests, most_bytes: limits on one file.
    note: shows what is being waited for.
    lost: what to do about a request file that is gone.

  Attributes:
    dialect: how the next batch is written.
    problem: the last thing that went wrong, "" for nothing.
  """

  def __init__(
    self,
    store: Store,
    options: Options,
    folder: Path,
    poll: float,
    most_requests: int = MOST_REQUESTS,
    most_bytes: int = MOST_BYTES,
    note: Callable[[str], None] = lambda text: None,
    lost: str = "put it back",
  ):
    self._store = store
    self._options = options
    self._folder = folder
    self._poll = poll
    self._limits = (
      min(most_requests, MOST_REQUESTS),
      min(most_bytes, MOST_BYTES),
    )
    self._note = note
    self._lost = lost
    self._client = BatchClient(options)
    self.problem = ""
    self.dialect = Dialect(options)
    for batch in store.batches.values():  # what the last one had to be
      structured = batch.get("structured", True)
      self.dialect.structured = self.dialect.structured and structured
      self.dialect.limit = batch.get("limit", self.dialect.limit)
    self._tidy()

  def close(self) -> None:
    self._client.close()

  def _tidy(self) -> None:
    """Removes request files of settled batches, and of none."""
    names = {batch["batch"] for batch in self.open()}
    for path in self._folder.glob("*.jsonl"):
      if path.stem not in names:
        path.unlink()

  def open(self) -> list[dict]:
    """Batches that are not settled, oldest first."""
    batches = self._store.batches.values()
    return [b for b in batches if b["event"] != "batch_settled"]

  def names(self, batch: dict) -> list[str]:
    """The requests of a batch."""
    if "marks" in batch:
      return list(batch["marks"])
    path = self._path(batch)
    if not path.exists():
      raise UserError(
        f"{path} is missing, and its batch is not finished; {self._lost}"
      )
    return custom_ids(path)

  def _path(self, batch: dict) -> Path:
    return self._folder / f"{batch['batch']}.jsonl"

  def plan(
    self,
    requests: Iterable[Request],
    facts: Callable[[list[str]], dict[str, Any]] = lambda names: {},
  ) -> None:
    """Writes request files, and what belongs to each into the store."""
    dialect = self.dialect
    lines = (
      line(request, self._options, dialect.structured, dialect.limit)
      for request in requests
    )
    for path, count in write_files(lines, self._new_paths(), *self._limits):
      self._store.write(
        "batch_planned",
        batch=path.stem,
        requests=count,
        structured=dialect.structured,
        limit=dialect.limit,
        **facts(custom_ids(path)),
      )

  def _new_paths(self) -> Iterator[Path]:
    while True:
      yield self._folder / f"{uuid.uuid4().hex}.jsonl"

  def work_off(
    self, request_of: Callable[[str, dict], Request | None], take: Take
  ) -> None:
    """Submits, waits for and settles every open batch.

    Args:
      request_of: the request of a name in a batch, None: it is taken already.
      take: gets each outcome.

    Raises:
      UserError: nothing can go on; what came is taken.
    """
    for batch in self.open():
      self._submit(batch)
    while batches := self.open():
      looks = [(batch, self._look(batch)) for batch in batches]
      running = 0
      for batch, status in looks:
        if status is None or not status.ended:
          running += status is not None
        elif not (status.crowded_out and self._put_back(batch, status)):
          self._settle(batch, status, request_of, take)
      waiting = [b for b in self.open() if "remote" not in b]
      if waiting and not running:  # there is room in the account again
        self._submit(waiting[0])
      if self.open():
        time.sleep(self._poll)

  def _look(self, batch: dict) -> Status | None:
    if "remote" not in batch:
      return None
    status = self._client.status(batch["remote"])
    open_ = len(self.open())
    self._note(f"{open_} batches, {status.state} {status.done}")
    return status

  def _put_back(self, batch: dict, status: Status) -> bool:
    """Takes a batch that the account had no room for out of the race; it is
    submitted again when no other is at work. False: it was alone, and will
    never have room."""
    self.problem = status.problem
    if batch.get("alone"):
      return False
    again = batch.get("again", 0) + 1
    self._store.write("batch_waiting", batch=batch["batch"], again=again)
    return True

  def _submit(self, batch: dict) -> None:
    store, name = self._store, batch["batch"]
    batch = store.batches[name]
    if "remote" in batch:
      return
    file_id = batch.get("file")
    if file_id is None:
      file_id = self._client.upload(self._path(batch))
      store.write("batch_uploaded", batch=name, file=file_id)
    # A name on the server stands for one submission of the batch.
    again = batch.get("again", 0)
    label = f"{name}-{again}" if again else name
    since = batch.get("since")
    if since is None:
      now = time.time()
      others = [b for b in self.open() if b is not batch and "remote" in b]
      store.write("batch_submitting", batch=name, since=now, alone=not others)
      remote = self._client.submit(file_id, label, now)
    else:  # a run before this one was about to, and may have done so
      remote = self._client.submit(file_id, label, since, maybe=True)
    store.write("batch_submitted", batch=name, remote=remote)

  def _settle(
    self,
    batch: dict,
    status: Status,
    request_of: Callable[[str, dict], Request | None],
    take: Take,
  ) -> None:
    """Takes in all rows; what has none is left for the next batch."""
    missing = dict.fromkeys(self.names(batch))
    failed: collections.Counter = collections.Counter()
    usage: collections.Counter = collections.Counter()
    cost, stop = 0.0, ""
    self.problem = status.problem or self.problem
    for file_id in status.files:
      for row in self._client.rows(file_id):
        if row.custom_id not in missing:
          continue
        del missing[row.custom_id]
        request = request_of(row.custom_id, batch)
        if request is None:
          continue  # taken by a run that was killed while it settled
        outcome = self._read(request, row, batch)
        if isinstance(outcome, Failure):
          failed[outcome.kind] += 1
          usage.update(outcome.usage)
          cost += outcome.cost
          self.problem = outcome.words
          stop = stop or (outcome.stop and f"{outcome.stop}: {outcome.detail}")
          if not outcome.final:
            continue  # asked again with the next batch
        take(request, outcome)
    if missing:
      reason = "missing" if status.state == "completed" else status.state
      failed[reason] += len(missing)
    self._store.write(
      "batch_settled",
      batch=batch["batch"],
      state=status.state,
      failed=failed,
      usage=usage,
      cost=cost,
    )
    self._path(batch).unlink(missing_ok=True)
    if stop:
      raise UserError(stop)

  def _read(self, request: Request, row: Row, batch: dict) -> Reply | Failure:
    """The outcome of a row. A failure that another form of the request may
    mend is not final, and the next batch has that form."""
    dialect = self.dialect
    asked = batch.get("structured", True) and request.schema is not None
    failure = row.failure
    if failure is None:
      price = self._options.price
      try:
        reply = read_reply(request, row.body, asked, price, batch=True)
      except Failure as error:
        return error
      if dialect.ignores_schema(reply):
        words = "plain text instead of JSON"
        return Failure(
          "unstructured", words, usage=reply.usage, cost=reply.cost
        )
      return reply
    if dialect.rename_limit(failure, batch.get("limit", dialect.limit)):
      failure.final = False
    elif asked and failure.final and dialect.about_schema(failure):
      dialect.plain_works()
      failure.final = False
    return failure
