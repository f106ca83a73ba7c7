"""The start of a run: joins its processes and prints what will run."""

import contextlib
import ctypes
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from povid_jax import errors
from povid_jax.errors import UserError
from povid_jax.models import chips
from povid_jax.training import build, optim
from povid_jax.training.accounting import step_flops
from povid_jax.training.step import StepFn

# share of the peak FLOP/s that a step reaches on most accelerators
_USUAL_MFU = 0.4


def join(
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  distributed: bool,
  timeout: int,
) -> None:
  """Joins this process to the others of the run, if the flags name several.

  Raises:
    UserError: a flag is missing or out of range, there is no cluster, or some
      processes do not join.
  """
  given = (num_processes, process_id)
  if coordinator is None and not distributed:
    if given != (None, None):
      raise UserError(
        "--num-processes and --process-id need --coordinator=HOST:PORT as "
        "well; leave them out for a run of one process"
      )
    return
  if coordinator is not None:
    _check_address(coordinator, num_processes, process_id)
  try:
    jax.distributed.initialize(
      coordinator, *given, initialization_timeout=timeout
    )
  except (RuntimeError, ValueError) as error:
    reason = errors.first_line(error).rstrip(".")
    if distributed and not coordinator:
      raise UserError(
        "--distributed: JAX finds no cluster here (SLURM, Open MPI, Cloud "
        f"TPU, Kubernetes) whose processes it could join: {reason}. Give "
        "their addresses with --coordinator=HOST:PORT --num-processes=N "
        "--process-id=I, or leave --distributed out for one process"
      ) from error
    raise UserError(
      f"process {process_id} of {num_processes} could not join the "
      f"others at {coordinator} within {timeout} s: {reason}"
    ) from error


def _check_address(
  coordinator: str, num_processes: int | None, process_id: int | None
) -> None:
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port[:6]) < 1 << 16:
    raise UserError(
      f"--coordinator={coordinator}: want HOST:PORT with a port from 1 to "
      "65535, such as 10.0.0.2:1234"
    )
  if num_processes is None or process_id is None:
    raise UserError(
      f"--coordinator={coordinator} needs --num-processes=N and "
      "--process-id=I (0 to N-1) as well"
    )
  if process_id >= num_processes:
    raise UserError(
      f"--process-id={process_id}: want 0 to {num_processes - 1}, as "
      f"--num-processes={num_processes}"
    )


# texts in the errors of a collective, or of the service between the hosts, when
# a process is gone
_GONE = re.compile(
  r"closed by peer|reset by peer|Broken pipe|heartbeat|coordination service"
  r"|Timed out waiting|DEADLINE_EXCEEDED|UNAVAILABLE|remote process exited",
  re.IGNORECASE,
)
_AGAIN = (
  "Start all processes again with the same command; they continue from the "
  "last checkpoint"
)


@contextlib.contextmanager
def others_named() -> Iterator[None]:
  """Ends this process when another process of the run is gone.

  Where another one is gone, this one ends with one line and exit code 75 ("try
  again"): at once where a connection closes, or when JAX has had no sign of
  life for 100 s. Where this one fails or is told to stop, it ends at once and
  without JAX's leave-taking, which waits for all the others while they wait
  for this one: they see the connection close. What was saved is whole.
  """
  if not jax.distributed.is_initialized():
    yield
    return
  with _abort_named():
    try:
      # The first collective connects the processes, and on CPUs it gives up
      # after 30 s: all come to it now, before one has more to read or compile.
      multihost_utils.sync_global_devices("joined")
      yield
    except BaseException as error:
      _end(error)


def _end(error: BaseException) -> NoReturn:
  """Says what has happened and ends this process."""
  if gone := _of_others(error):
    code: Any = os.EX_TEMPFAIL
    print(
      f"error: {_who()}: another process of the run is gone ({gone}). {_AGAIN}",
      file=sys.stderr,
    )
  elif isinstance(error, SystemExit):
    code = error.code or 0
  elif (code := errors.shown(error)) is None:
    code = 1
    traceback.print_exception(error)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(int(code))


def _who() -> str:
  return f"process {jax.process_index()} of {jax.process_count()}"


def _of_others(error: BaseException | None) -> str:
  """How a library tells that another process is gone, or ""."""
  while error is not None:
    if isinstance(error, (RuntimeError, ValueError)):
      if _GONE.search(str(error)):
        return errors.first_line(error)
    error = error.__cause__  # a save that fails is a UserError
  return ""


@contextlib.contextmanager
def _abort_named() -> Iterator[None]:
  """Gives JAX's abort, which Python never sees, a line and exit code 75.

  JAX's service between the hosts aborts every process of a run that has lost
  one; its callback for that cannot be used from Python (jaxlib 0.10 to 0.12
  end in std::bad_cast).
  """
  line = (
    f"error: {_who()}: ended by JAX, whose lines above say why; as a rule "
    f"another process of the run is gone. {_AGAIN}\n"
  ).encode()

  def say(number: int) -> None:
    del number
    os.write(2, line)
    os._exit(os.EX_TEMPFAIL)

  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(say)
  install = ctypes.CDLL(None).signal
  install.restype = ctypes.c_void_p
  install.argtypes = (ctypes.c_int, ctypes.c_void_p)
  before = install(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
  try:
    yield
  finally:
    install(signal.SIGABRT, before)


@contextlib.contextmanager
def memory_named() -> Iterator[None]:
  """Turns an allocation that failed, on a device or here, into a UserError."""
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    if isinstance(error, MemoryError):
      where = "of this machine"
    elif "RESOURCE_EXHAUSTED" in str(error):
      where = "of a device"
    else:
      raise
    reason = str(error).splitlines()[0] if str(error) else "out of memory"
    raise UserError(
      f"out of memory: the memory {where} is not enough ({reason[:200]}). Try "
      "in this order: --config.remat=full, --config.head_chunk=64, a smaller "
      "batch_size or more grad_accum, more devices; `python -m "
      "povid_jax.plan` prints what fits"
    ) from error


def announce(
  config: ConfigDict,
  model: build.Model,
  data: build.Data,
  step: StepFn,
  mesh: jax.sharding.Mesh,
  first: int,
) -> None:
  """Prints what is about to run: hardware, parameters, lengths, steps."""
  if jax.process_index():
    return
  print(_hardware(config, model, data, step, mesh))
  held = {**model.frozen.params, **model.params}
  print(optim.trainable_table(held, model.patterns))
  buckets = data.buckets
  print(
    f"{len(buckets.kept)} samples, lengths {buckets.prefix} + "
    f"{buckets.branch}, padding {buckets.padding:.1%}; {len(data.plan)} steps "
    f"of {config.batch_size}, {data.plan.steps_per_epoch} an epoch"
  )
  if first:
    print(f"continuing at step {first}")
  sys.stdout.flush()


def _hardware(
  config: ConfigDict,
  model: build.Model,
  data: build.Data,
  step: StepFn,
  mesh: jax.sharding.Mesh,
) -> str:
  """One line with devices, mesh, dtype, attention and the expected speed."""
  kind = jax.devices()[0].device_kind
  axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
  said = (
    f"{mesh.size} x {kind}, mesh ({axes}), {config.dtype}, attention "
    f"{model.attention}"
  )
  peak = chips.peak_flops(kind)
  if peak is None:
    return said
  counted = step_flops(
    config,
    model.weights.config,
    model,
    step,
    prefix=data.buckets.prefix[-1],
    branch=data.buckets.branch[-1],
    branches=data.text.num_branches,
  )
  rate = _USUAL_MFU * peak * mesh.size / counted.total.model
  return f"{said}; about {rate:.2g} steps/s at {_USUAL_MFU:.0%} of the peak"
