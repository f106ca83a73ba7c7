"""Judgements through the Batch API, into the log that `judge.py` reads.

OUT/judge-batch.json names the batches that are on the server. It is written
before a batch is submitted, and a batch carries a name made of what it asks, so
a killed run finds its batch again instead of paying for another.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from povid_jax import llm, progress
from povid_jax.errors import UserError
from povid_jax.files import atomic_write
from povid_jax.llm import batch, log, wire
from povid_jax.llm.prices import message_tokens

POLL = 20.0  # seconds between two looks at a batch


def ask(
  requests: Sequence[llm.Request],
  server: llm.Options,
  path: Path,
  max_cost: float | None,
  poll: float | None = None,
) -> None:
  """Has requests answered that the log does not answer yet.

  What a batch leaves unanswered (single failures, expiry) is left to the
  caller, who asks for it at the normal price.

  Raises:
    UserError: the estimate is above `max_cost`, or a batch failed.
  """
  marks = {r.key: log.fingerprint(r, server) for r in requests}
  held = log.read(path)
  todo = [r for r in requests if (r.key, marks[r.key]) not in held]
  if not todo:
    return
  _check_cost(todo, server, held.values(), max_cost)
  state = _State(path.with_name("judge-batch.json"))
  client = batch.BatchClient(server)
  try:
    for chunk in _files(todo, server, path):
      ended = _run(client, state, chunk, POLL if poll is None else poll)
      _collect(client, ended, server, path, marks, todo)
      chunk.unlink()
      state.forget(_name(chunk))
  finally:
    client.close()


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
      f"a batch of {len(todo)} judgements may cost ${most:.2f}, and "
      f"${spent:.2f} are spent: more than --max-cost={max_cost:g}"
    )


class _State:
  """Batches on the server: our name -> {since, remote}."""

  def __init__(self, path: Path):
    self._path = path
    self.batches: dict[str, dict[str, Any]] = {}
    if path.exists():
      with contextlib.suppress(ValueError):
        self.batches = json.loads(path.read_text())

  def keep(self, name: str, **facts: Any) -> None:
    self.batches[name] = self.batches.get(name, {}) | facts
    self._save()

  def forget(self, name: str) -> None:
    self.batches.pop(name, None)
    self._save()

  def _save(self) -> None:
    with atomic_write(self._path) as file:
      json.dump(self.batches, file, indent=1)


def _files(
  todo: Sequence[llm.Request], server: llm.Options, path: Path
) -> list[Path]:
  names = (path.with_name(f"judge-batch-{i}.jsonl") for i in range(10**6))
  lines = (batch.line(request, server, False) for request in todo)
  return [file for file, _ in batch.write_files(lines, names)]


def _name(chunk: Path) -> str:
  return hashlib.sha256(chunk.read_bytes()).hexdigest()[:24]


def _run(
  client: batch.BatchClient, state: _State, chunk: Path, poll: float
) -> batch.Status:
  """Submits a file, or finds it submitted, and waits for its end."""
  name = _name(chunk)
  known = state.batches.get(name)
  if known is None or "remote" not in known:
    since = time.time() if known is None else known["since"]
    state.keep(name, since=since)
    uploaded = client.upload(chunk)
    remote = client.submit(uploaded, name, since, maybe=known is not None)
    state.keep(name, remote=remote)
  remote = state.batches[name]["remote"]
  status = client.status(remote)
  bar = progress.bar(total=status.total, desc=f"batch {remote}", unit="replies")
  while not status.ended:
    time.sleep(poll)
    status = client.status(remote)
    bar.total = status.total
    bar.update(status.done - bar.n)
  bar.close()
  if status.state in ("failed", "cancelled") and not status.files:
    state.forget(name)
    raise UserError(
      f"batch {remote} {status.state}: {status.problem or 'no reason given'}; "
      "the same command tries again"
    )
  return status


def _collect(
  client: batch.BatchClient,
  ended: batch.Status,
  server: llm.Options,
  path: Path,
  marks: dict[str, str],
  todo: Sequence[llm.Request],
) -> None:
  """Appends the replies of a batch to the log."""
  by_key = {request.key: request for request in todo}
  with open(path, "a", encoding="utf-8") as file:
    for file_id in ended.files:
      for row in client.rows(file_id):
        request = by_key.pop(row.custom_id, None)
        if request is None or row.failure is not None:
          continue
        with contextlib.suppress(wire.Failure):
          reply = wire.read_reply(
            request, row.body, False, server.price, batch=True
          )
          log.append(file, reply, marks[request.key])
