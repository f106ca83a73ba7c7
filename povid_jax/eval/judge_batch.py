"""Judgements through the Batch API, into the log that `judge.py` reads.

The steps of every batch are in that log, so that a killed run finds its batches
again instead of paying for others.
"""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from povid_jax import llm, progress
from povid_jax.errors import UserError
from povid_jax.llm import log
from povid_jax.llm.batches import Batches
from povid_jax.llm.prices import dollars, message_tokens

POLL = 20.0  # seconds between two checks of a batch


def ask(
  requests: Sequence[llm.Request],
  server: llm.Options,
  path: Path,
  max_cost: float | None,
) -> None:
  """Sends the requests that have no reply in the log yet.

  What a batch leaves unanswered (single failures, expiry) is left to the
  caller, who asks for it at the normal price.

  Args:
    path: the log; request files lie in a folder beside it.

  Raises:
    UserError: the estimate is above `max_cost`, or a batch returned nothing.
  """
  with contextlib.ExitStack() as stack:
    store = stack.enter_context(contextlib.closing(log.Replies(path)))
    bar = stack.enter_context(progress.bar(desc="judge batch", unit="replies"))
    batches = Batches(
      store,
      server,
      path.with_name("judge-batches"),
      POLL,
      note=lambda text: bar.set_postfix_str(text),
    )
    stack.enter_context(contextlib.closing(batches))
    if batches.open():
      _finish(batches, store)
    marks = {r.key: log.fingerprint(r, server) for r in requests}
    todo = [r for r in requests if (r.key, marks[r.key]) not in store.held]
    if todo:
      _check_cost(todo, server, store.cost, max_cost)
      of_file = lambda names: {"marks": {n: marks[n] for n in names}}
      batches.plan(todo, of_file)
      _finish(batches, store)


def _check_cost(
  todo: Iterable[llm.Request],
  server: llm.Options,
  spent: float,
  max_cost: float | None,
) -> None:
  """A batch cannot be stopped half way, so its cost is refused beforehand."""
  if max_cost is None:
    return
  todo = list(todo)
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


def _finish(batches: Batches, store: log.Replies) -> None:
  """Takes in the replies of all open batches."""
  before = len(store.held)

  def request_of(name: str, batch: dict[str, Any]) -> llm.Request | None:
    mark = batch["marks"][name]
    if (name, mark) in store.held:
      return None
    return llm.Request(name, [], context=mark)

  def take(request: llm.Request, outcome: llm.Reply | llm.Failure) -> None:
    if isinstance(outcome, llm.Reply):
      store.take(outcome, request.context)

  batches.work_off(request_of, take)
  if len(store.held) == before:
    raise UserError(
      f"the batch returned no reply ({batches.problem or 'no reply in it'}); "
      "run the same command again"
    )
