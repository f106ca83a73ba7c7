"""What a run prints and refuses at its start."""

import re

import jax
import pytest

from povid_jax.errors import UserError
from povid_jax.training import start


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (("host:1", None, 0, False, 9), "needs --num-processes=N"),
    (("host:1", 2, None, False, 9), "needs --num-processes=N"),
    (("host", 2, 0, False, 9), "--coordinator=host: want HOST:PORT"),
    ((":1", 2, 0, False, 9), "--coordinator=:1: want HOST:PORT"),
    (("host:99999", 2, 0, False, 9), "want HOST:PORT with a port from 1"),
    (("host:0", 2, 0, False, 9), "want HOST:PORT"),
    (("", 2, 0, False, 9), "want HOST:PORT"),
    (("host:1", 2, 2, False, 9), "--process-id=2: want 0 to 1"),
    ((None, 2, None, False, 9), "need --coordinator=HOST:PORT"),
    ((None, None, 0, False, 9), "need --coordinator=HOST:PORT"),
    ((None, None, None, True, 9), "--distributed: JAX finds no cluster here"),
  ],
)
def test_processes_that_cannot_come_together(flags, said, monkeypatch):
  for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "JOB_COMPLETION_INDEX"):
    monkeypatch.delenv(name, raising=False)
  with pytest.raises(UserError, match=re.escape(said)) as caught:
    start.join(*flags)
  assert "\n" not in str(caught.value)


def test_memory_that_is_not_enough_is_one_line():
  for error, where in (
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nx"), "dev"),
    (MemoryError("Unable to allocate 7.28 TiB"), "this machine"),
  ):
    with pytest.raises(UserError, match=f"{where}.*--config.remat=full") as e:
      with start.memory_named():
        raise error
    assert "\n" not in str(e.value)
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    with start.memory_named():
      raise jax.errors.JaxRuntimeError("INTERNAL: a fault of ours")
