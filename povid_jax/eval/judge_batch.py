"""Judgements through the Batch API, into the log that `judge.py` reads.

OUT/judge-batch.json names the batches that are on the server and what they ask.
It is written before a batch is submitted, and a batch carries our name for it:
a killed run finds its batches again instead of paying for others.
"""

import contextlib
import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from povid_jax import llm, progress
from povid_jax.errors import UserError
from povid_jax.eval import needs
from povid_jax.files import atomic_write
from povid_jax.llm import batch, log, wire
from povid_jax.llm.prices import dollars, message_tokens

POLL = 20.0  # seconds between two looks at a batch


def ask(
  requests: Sequence[llm.Request],
  server: llm.Options,
  path: Path,
  max_cost: float | None,
) -> None:
  """Has requests answered that the log does not answer yet.

  What a batch leaves unanswered (single failures, expiry) is left to the
  caller, who asks for it at the normal price.

  Args:
    path: the log; the state of batches lies beside it.

  Raises:
    UserError: the estimate is above `max_cost`, or a batch failed.
  """
  state = _State(path.with_name("judge-batch.json"))
  if state.batches:
    _finish_all(state, server, path)
  marks = {r.key: log.fingerprint(r, server) for r in requests}
  held = log.read(path)
  todo = [r for r in requests if (r.key, marks[r.key]) not in held]
  if todo:
    _check_cost(todo, server, held.values(), max_cost)
    _submit(state, todo, server, path, marks)
    _finish_all(state, server, path)


def _check_cost(
  todo: Sequence[llm.Request],
  server: llm.Options,
  held: Iterable[llm.Reply],
  max_cost: float | None,
) -> None:
  """A batch cannot be stopped half way, so its cost is refused beforehand."""
  if max_cost is None:
    return
  spent = sum(reply.cost for reply in held)
  most = server.price.cost(
    sum(message_tokens(r.messages) for r in todo),
    sum(r.max_tokens or server.max_tokens for r in todo),
    batch=True,
  )
  if spent + most > max_cost:
    raise UserError(
      f"a batch of {len(todo)} judgements may cost {dollars(most)}, and "
      f"{dollars(spent)} are spent: more than --max-cost={max_cost:g}"
    )


class _State:
  """Batches on the server: our name -> {since, marks, remote}."""

  def __init__(self, path: Path):
    self._path = path
    self.batches: dict[str, dict[str, Any]] = {}
    if path.exists():
      self.batches = needs.read_json(path)

  def keep(self, name: str, **facts: Any) -> None:
    self.batches[name] = self.batches.get(name, {}) | facts
    self._save()

  def forget(self, name: str) -> None:
    self.batches.pop(name, None)
    self._save()

  def _save(self) -> None:
    with atomic_write(self._path) as file:
      json.dump(self.batches, file, indent=1)


def _submit(
  state: _State,
  todo: Sequence[llm.Request],
  server: llm.Options,
  path: Path,
  marks: Mapping[str, str],
) -> None:
  names = (path.with_name(f"judge-batch-{i}.jsonl") for i in range(10**6))
  lines = (batch.line(request, server, False) for request in todo)
  with contextlib.closing(batch.BatchClient(server)) as client:
    for file, _ in batch.write_files(lines, names):
      name, since = uuid.uuid4().hex, time.time()
      asked = {key: marks[key] for key in batch.custom_ids(file)}
      uploaded = client.upload(file)
      state.keep(name, since=since, marks=asked)
      state.keep(name, remote=client.submit(uploaded, name, since))
      file.unlink()


def _finish_all(state: _State, server: llm.Options, path: Path) -> None:
  with contextlib.closing(batch.BatchClient(server)) as client:
    for name, facts in list(state.batches.items()):
      # without a server's id the kill came while it was being submitted
      remote = facts.get("remote") or client.find(name, facts["since"])
      ended = None if remote is None else _wait(client, remote)
      if ended is not None:
        _collect(client, ended, server, path, facts["marks"])
      state.forget(name)
      if ended is not None and not ended.files:
        raise UserError(
          f"batch {remote} {ended.state}: {ended.problem or 'no reply in it'}; "
          "the same command tries again"
        )


def _wait(client: batch.BatchClient, remote: str) -> batch.Status:
  status = client.status(remote)
  bar = progress.bar(total=status.total, desc=f"batch {remote}", unit="replies")
  while not status.ended:
    time.sleep(POLL)
    status = client.status(remote)
    bar.total = status.total
    bar.update(status.done - bar.n)
  bar.close()
  return status


def _collect(
  client: batch.BatchClient,
  ended: batch.Status,
  server: llm.Options,
  path: Path,
  marks: Mapping[str, str],
) -> None:
  """Appends the replies of a batch to the log; one already there changes
  nothing."""
  with open(path, "a", encoding="utf-8") as file:
    for file_id in ended.files:
      for row in client.rows(file_id):
        if row.custom_id not in marks or row.failure is not None:
          continue
        request = llm.Request(row.custom_id, [])
        with contextlib.suppress(wire.Failure):
          reply = wire.read_reply(
            request, row.body, False, server.price, batch=True
          )
          log.append(file, reply, marks[row.custom_id])
