"""The log-probs that an interrupted reference pass has computed so far.

Kept beside the folder of the cache, FOLDER.part/, and removed when the cache is
whole: the pass over a large data set takes an hour, and it can be interrupted.
"""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from povid_jax import files
from povid_jax.errors import UserError

SECONDS = 60.0  # between two saves


class Part:
  """The values of the batches that are done.

  Args:
    folder: of the whole cache.
    key: everything that values and their order depend on.
  """

  def __init__(self, folder: Path, key: Mapping[str, Any]):
    self._folder = folder.with_name(f"{folder.name}.part")
    self._key = files.as_read(key)
    self._last = time.monotonic()

  def load(self) -> tuple[int, dict[str, np.ndarray]]:
    """(batches done, values by term); (0, {}) if there is no matching part."""
    done, values = 0, {}
    try:
      held = files.load_json(self._folder / "key.json")
      if held["key"] == self._key:
        with np.load(self._folder / "logps.npz") as file:
          values = {name: file[name] for name in file.files}
        done = int(held["done"])
    except (UserError, OSError, ValueError, KeyError, TypeError, EOFError):
      # an incomplete folder: its values are computed again
      done, values = 0, {}
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      # all start with the same batch, the first that any of them lacks
      every = multihost_utils.process_allgather(np.array([done]))
      done = int(np.min(every))
    return done, values

  def keep(
    self, done: int, values: Mapping[str, np.ndarray], now: bool = False
  ) -> None:
    """Saves the values if the last save is long enough ago, or if `now`."""
    late = time.monotonic() - self._last >= SECONDS
    if not (late or now) or not done or jax.process_index():
      return
    self._last = time.monotonic()
    new = self._folder.with_name(f".{self._folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    files.ensure_parent(new / "key.json")
    np.savez(new / "logps.npz", **values)  # pyright: ignore[reportArgumentType]
    (new / "key.json").write_text(json.dumps({"key": self._key, "done": done}))
    shutil.rmtree(self._folder, ignore_errors=True)
    new.rename(self._folder)

  def remove(self) -> None:
    """Removes the part once the cache is complete."""
    if jax.process_index() == 0:
      shutil.rmtree(self._folder, ignore_errors=True)
