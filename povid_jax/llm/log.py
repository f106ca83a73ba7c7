"""Asking many questions once: replies in a file that a new run reads first."""

import asyncio
import collections
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from povid_jax import progress
from povid_jax.errors import UserError
from povid_jax.files import ensure_parent
from povid_jax.llm.chat import Chat, Outcome
from povid_jax.llm.prices import dollars
from povid_jax.llm.wire import Options, Reply, Request


def fingerprint(request: Request, options: Options) -> str:
  """What a reply depends on: model, messages and schema."""
  parts = [options.model, options.temperature, request.messages, request.schema]
  if request.extra:
    parts.append(request.extra)
  text = json.dumps(parts, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=9).hexdigest()


def read(path: Path) -> dict[tuple[str, str], Reply]:
  """(key, fingerprint) -> reply; a line torn by a kill is cut off."""
  replies: dict[tuple[str, str], Reply] = {}
  if not path.exists():
    return replies
  offset = 0
  with open(path, "rb") as file:
    for number, line in enumerate(file, start=1):
      if not line.endswith(b"\n"):
        if number == 1 and not b'{"key"'.startswith(line[:6]):
          raise UserError(f"{path}: not a reply log; name another file")
        os.truncate(path, offset)
        break
      try:
        row = json.loads(line)
        mark = row.pop("fingerprint")
        replies[row["key"], mark] = Reply(**row)
      except (ValueError, TypeError, KeyError) as error:
        raise UserError(
          f"{path}, line {number}: not a line of a reply log; name another file"
        ) from error
      offset += len(line)
  return replies


def append(file: IO[str], reply: Reply, mark: str) -> None:
  """Writes one line of a log and lets it go to the kernel."""
  row: dict[str, Any] = dataclasses.asdict(reply)
  row["fingerprint"] = mark
  file.write(json.dumps(row) + "\n")
  file.flush()


def ask_all(
  requests: Iterable[Request],
  options: Options,
  log: Path | None = None,
  max_cost: float | None = None,
  desc: str = "ask",
) -> dict[str, Reply]:
  """Asks every request that the log does not answer yet.

  Args:
    requests: with keys that differ.
    options: server, limits, retries.
    log: JSONL file of replies, appended to; None: nothing is kept.
    max_cost: dollars, those in the log included; nothing new is asked once
      they are spent.
    desc: name of the bar.

  Returns:
    key -> reply; requests that failed after all retries, or that were not
    asked because of `max_cost`, are missing.

  Raises:
    UserError: the key is refused, the model is unknown, the log is not ours.
  """
  requests = list(requests)
  failures: collections.Counter = collections.Counter()
  known = read(log) if log else {}
  marks = {r.key: fingerprint(r, options) for r in requests}
  replies = {k: known[k, m] for k, m in marks.items() if (k, m) in known}
  todo = [request for request in requests if request.key not in replies]
  if not todo:
    return replies
  spent = sum(reply.cost for reply in known.values())
  if log:
    ensure_parent(log)
  file = open(log, "a", encoding="utf-8") if log else None
  bar = progress.bar(
    total=len(requests), initial=len(replies), desc=desc, unit="replies"
  )

  def handle(request: Request, outcome: Outcome) -> None:
    nonlocal spent
    if isinstance(outcome, Reply):
      replies[request.key] = outcome
      spent += outcome.cost
      if file:
        append(file, outcome, marks[request.key])
    else:
      failures[outcome.kind] += 1
    bar.set_postfix_str(dollars(spent) if spent else "", refresh=False)
    bar.update(1)

  async def ask() -> None:
    async with Chat(options) as chat:
      stop = lambda: max_cost is not None and spent + chat.reserved >= max_cost
      await chat.run(iter(todo), lambda request: request, handle, stop)

  try:
    asyncio.run(ask())
  finally:
    bar.close()
    if file:
      file.close()
  if failures:  # they are missing from what we return: say so
    kinds = ", ".join(f"{kind} {n}" for kind, n in failures.most_common())
    print(f"requests without a reply: {kinds}", file=sys.stderr)
  return replies
