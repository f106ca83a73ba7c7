"""Sends each request once: replies are kept in a file that the next run reads
first.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from povid_jax import files, progress
from povid_jax.errors import UserError
from povid_jax.llm.chat import Chat, Outcome
from povid_jax.llm.failures import Failure
from povid_jax.llm.prices import dollars
from povid_jax.llm.store import Store
from povid_jax.llm.wire import Options, Reply, Request

# Requests in a row without a usable reply: the run would only use up the list.
_OUTAGE = 20


def fingerprint(request: Request, options: Options) -> str:
  """What a reply depends on: model, messages, schema, temperature, room and
  what else the body holds."""
  parts = [
    options.model,
    options.temperature,
    request.messages,
    request.schema,
    request.max_tokens or options.max_tokens,
    options.plain,
    request.extra or None,
  ]
  text = json.dumps(parts, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=9).hexdigest()


class Replies(Store):
  """A log of replies; a row without an `event` is one.

  Attributes:
    held: (key, fingerprint) -> reply.
  """

  def __init__(self, path: Path):
    self.held: dict[tuple[str, str], Reply] = {}
    super().__init__(path)

  def apply(self, row: dict, offset: int) -> None:
    if "event" in row:
      super().apply(row, offset)
      return
    fields = {k: v for k, v in row.items() if k != "fingerprint"}
    reply = Reply(**fields)
    if "thoughts" not in row and reply.defect:
      return  # of a version that kept what is no reply
    known = (row["key"], row["fingerprint"]) in self.held
    self.held[row["key"], row["fingerprint"]] = reply
    self.cost += 0.0 if known else reply.cost

  def keep(self, reply: Reply, mark: str) -> None:
    """Appends a reply."""
    self.append(dataclasses.asdict(reply) | {"fingerprint": mark})

  def take(self, reply: Reply, mark: str, any_reply: bool = False) -> str:
    """Keeps a usable reply; for another one, records its cost and returns the
    reason ("" for a usable reply).
    """
    defect = "" if any_reply else reply.defect
    if defect:
      self.write(
        "failed", key=reply.key, reason="no_reply", usage=reply.usage,
        cost=reply.cost,
      )  # fmt: skip
    else:
      self.keep(reply, mark)
    return defect


def read(path: Path) -> dict[tuple[str, str], Reply]:
  """(key, fingerprint) -> reply of a log that another process may write to; a
  line without an end is not read."""
  replies: dict[tuple[str, str], Reply] = {}
  for row in files.json_objects(path, torn=True):
    if "event" not in row:
      try:
        mark = row.pop("fingerprint")
        replies[row["key"], mark] = Reply(**row)
      except (KeyError, TypeError) as error:
        raise UserError(
          f"{path}: want a log of replies, got a row with {sorted(row)!r:.80}"
        ) from error
  return replies


class Asked(dict[str, Reply]):
  """key -> reply, and the words of the last failure, "" without one."""

  problem: str = ""


def ask_all(
  requests: Iterable[Request],
  options: Options,
  log: Path | None = None,
  max_cost: float | None = None,
  desc: str = "ask",
) -> Asked:
  """Asks every request that the log does not answer yet.

  Args:
    requests: with keys that differ.
    options: server, limits, retries.
    log: JSONL file of replies, appended to; None: nothing is kept.
    max_cost: dollars, those in the log included; nothing new is asked once
      they are spent.
    desc: name of the bar.

  Returns:
    key -> reply; requests that failed after all retries, whose reply was empty
    or cut off, or that were not asked because of `max_cost`, are missing.

  Raises:
    UserError: the key is refused, the model is unknown, the file is not a log
      of replies, or 20 requests in a row got no reply.
  """
  requests = list(requests)
  with contextlib.ExitStack() as stack:
    store = None
    if log:
      store = stack.enter_context(contextlib.closing(Replies(log)))
    run = _Asking(requests, options, store, max_cost)
    if run.todo:
      run.run(desc)
    return run.replies


class _Asking:
  """One call of `ask_all`."""

  def __init__(
    self,
    requests: list[Request],
    options: Options,
    store: Replies | None,
    max_cost: float | None,
  ):
    self._options = options
    self._store = store
    self._max_cost = max_cost
    self._total = len(requests)
    self._marks = {r.key: fingerprint(r, options) for r in requests}
    held: Mapping = store.held if store else {}
    self.replies = Asked(
      (key, held[key, mark])
      for key, mark in self._marks.items()
      if (key, mark) in held
    )
    self.todo = [r for r in requests if r.key not in self.replies]
    self._spent = store.cost if store else 0.0
    self._failures: dict[str, int] = {}
    self._lost = 0

  def run(self, desc: str) -> None:
    self._bar = progress.bar(
      total=self._total, initial=len(self.replies), desc=desc, unit="replies"
    )
    try:
      asyncio.run(self._ask())
    finally:
      self._bar.close()
    if self._failures:  # they are missing from the result, so this is reported
      kinds = ", ".join(f"{kind} {n}" for kind, n in self._failures.items())
      words = self.replies.problem
      print(
        f"requests without a reply: {kinds} (the last one: {words})",
        file=sys.stderr,
      )

  async def _ask(self) -> None:
    async with Chat(self._options, self._watch) as chat:

      def stop() -> bool:
        spent = self._spent + chat.reserved
        return self._max_cost is not None and spent >= self._max_cost

      await chat.run(iter(self.todo), lambda r: r, self._handle, stop)

  def _watch(self, event: str, request: Request, facts: dict[str, Any]) -> None:
    """Failures that were paid for are kept: they count against the budget."""
    if event == "failed" and facts.get("cost"):
      self._spent += facts["cost"]
      if self._store:
        self._store.write("failed", key=request.key, **facts)

  def _handle(self, request: Request, outcome: Outcome) -> None:
    if isinstance(outcome, Failure):
      self._lose(outcome.kind, outcome.words)
    else:
      self._spent += outcome.cost
      mark = self._marks[request.key]
      defect = "" if request.any_reply else outcome.defect
      if self._store:
        self._store.take(outcome, mark, request.any_reply)
      if defect:
        self._lose("no_reply", defect)
      else:
        self._lost = 0
        self.replies[request.key] = outcome
    spent = dollars(self._spent) if self._spent else ""
    self._bar.set_postfix_str(spent, refresh=False)
    self._bar.update(1)

  def _lose(self, kind: str, words: str) -> None:
    self._failures[kind] = self._failures.get(kind, 0) + 1
    self.replies.problem = words
    self._lost += 1
    if self._lost >= _OUTAGE:
      raise UserError(
        f"{self._lost} requests in a row got no reply (the last error: "
        f"{words}); correct the cause and run the same command again to "
        "continue"
      )
