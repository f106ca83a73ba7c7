"""The local writer: one shard after another in each of several processes.

Workers import NumPy and Pillow, never JAX.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import (
  FIRST_EXCEPTION,
  Future,
  ProcessPoolExecutor,
  wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_gen import shards
from data_gen.encode import Options
from data_gen.shards import Shard, ShardPlan, Written
from povid_jax.errors import UserError
from povid_jax.progress import bar

_POLL_SECONDS = 0.2


@dataclass
class _Shared:
  """What a worker process shares with its parent."""

  done: Any  # a multiprocessing.Value: samples finished by all workers
  stop: Any  # a multiprocessing.Event: another worker has failed


class _Stopped(Exception):
  """Raised inside a worker when its work is not wanted any more."""


_shared: _Shared | None = None


def _start_worker(done: Any, stop: Any) -> None:
  global _shared
  _shared = _Shared(done, stop)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
  parent = multiprocessing.parent_process()
  assert parent is not None

  def leave_with_parent() -> None:
    parent.join()
    os._exit(1)  # a parent that was killed could not tell us to stop

  threading.Thread(target=leave_with_parent, daemon=True).start()


def _tick() -> None:
  assert _shared is not None
  if _shared.stop.is_set():
    raise _Stopped
  with _shared.done.get_lock():
    _shared.done.value += 1


def _work(shard: Shard, options: Options, folder: Path) -> Written:
  return shards.write_shard(shard, options, folder / shard.name, _tick)


def _collect(
  futures: Sequence[Future], shared: _Shared, total: int
) -> list[Written]:
  with bar(total=total, desc="write", unit="record") as progress:
    pending: set[Future] = set(futures)
    while pending:
      done, pending = wait(pending, _POLL_SECONDS, FIRST_EXCEPTION)
      progress.update(shared.done.value - progress.n)
      for future in done:
        future.result()  # raises what the worker raised
  return [future.result() for future in futures]


def _write_parallel(
  plan: ShardPlan, options: Options, folder: Path, workers: int
) -> list[Written]:
  # Not fork: the caller may hold threads (JAX's), which fork does not copy.
  context = multiprocessing.get_context("spawn")
  shared = _Shared(context.Value("q", 0), context.Event())
  pool = ProcessPoolExecutor(
    workers, context, _start_worker, (shared.done, shared.stop)
  )
  try:
    futures = [
      pool.submit(_work, shard, options, folder) for shard in plan.shards
    ]
    total = sum(len(shard.samples) for shard in plan.shards)
    return _collect(futures, shared, total)
  except BrokenProcessPool as error:
    raise UserError(
      "a worker process was killed (out of memory?); try fewer --workers"
    ) from error
  finally:
    shared.stop.set()
    pool.shutdown(cancel_futures=True)


def write_local(
  plan: ShardPlan, options: Options, folder: Path, workers: int
) -> list[Written]:
  """Writes every shard of the plan into `folder`."""
  if (workers := min(workers, len(plan.shards))) > 1:
    return _write_parallel(plan, options, folder, workers)
  total = sum(len(shard.samples) for shard in plan.shards)
  with bar(total=total, desc="write", unit="record") as progress:
    return [
      shards.write_shard(shard, options, folder / shard.name, progress.update)
      for shard in plan.shards
    ]
