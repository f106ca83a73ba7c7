"""Arrays of a checkpoint from disk onto devices."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from povid_jax import errors, progress
from povid_jax.checkpoints.stream import Stored, load_array, nest, open_pieces
from povid_jax.errors import UserError
from povid_jax.models import quantised
from povid_jax.models.params import Params, is_lora

# gigabytes that Orbax reads at the same time, if no array is larger
_AT_ONCE = 4


def unnest(nested: dict[str, Any], prefix: str = "") -> Params:
  """The inverse of `nest`."""
  flat: Params = {}
  for name, value in nested.items():
    path = f"{prefix}{name}"
    if isinstance(value, dict):
      flat.update(unnest(value, f"{path}/"))
    else:
      flat[path] = value
  return flat


def restore(
  folder: Path,
  shardings: Any,
  dtype: Any,
  keep: Callable[[str], bool],
  storage: str = "bf16",
) -> Params:
  """The arrays of a folder by flat path, in the order of their names.

  Args:
    shardings, dtype, keep, storage: see `checkpoints.restore.load`.

  Raises:
    UserError: the folder does not exist, or a file in it cannot be read.
  """
  if not folder.is_dir():
    raise UserError(
      f"there are no weights in {folder}: the folder is not complete; copy it "
      "again, or convert the checkpoint again"
    )
  streamed = open_pieces(folder)
  if streamed:
    try:
      return _read_streamed(streamed, shardings, dtype, keep, storage)
    except UserError as error:
      raise UserError(f"{folder} cannot be restored: {error}") from error
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  # the handler, not a Checkpointer: that looks for metadata which a run keeps
  # one folder up, and warns
  handler = ocp.StandardCheckpointHandler()
  try:
    where: Any = folder.absolute()  # Orbax is typed for etils' paths
    stored = unnest(_tree(handler.metadata(where)))
    largest = max(_size(leaf) for leaf in stored.values())
    handler.close()
    handler = ocp.StandardCheckpointHandler(
      restore_concurrent_gb=max(_AT_ONCE, largest // 10**9 + 1)
    )

    def target(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
      wanted = None if is_lora(name) or keep(name) else dtype
      sharding = shardings(name, leaf.shape) if shardings else device
      return jax.ShapeDtypeStruct(
        leaf.shape, wanted or leaf.dtype, sharding=sharding
      )

    wanted = {name: target(name, leaf) for name, leaf in stored.items()}
    restored = handler.restore(
      where, args=ocp.args.StandardRestore(nest(wanted))
    )
  except Exception as error:  # Orbax raises bare ones for a cut file
    errors.hush_reads()
    cause: BaseException = error
    while cause.__cause__ is not None:  # the innermost names the file
      cause = cause.__cause__
    reason = errors.first_line(cause)
    raise UserError(f"{folder} cannot be restored: {reason}") from error
  finally:
    handler.close()
  return dict(sorted(unnest(restored).items()))


def _read_streamed(
  stored: Mapping[str, Stored],
  shardings: Any,
  dtype: Any,
  keep: Callable[[str], bool],
  storage: str,
) -> Params:
  """The arrays of a model folder, one after the other and layer by layer.

  Orbax reads all arrays at once, each whole before it is cast or cut.
  """
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  total = sum(map(_size, stored.values()))
  bar = progress.bar(total=total, desc="loading", unit="B")
  out: Params = {}
  for name, array in sorted(stored.items()):
    wanted = None if is_lora(name) or keep(name) else dtype
    place = shardings(name, array.shape) if shardings else device
    whole = load_array(array, wanted or array.dtype, place)
    # at once: beside the quantised ones there is one whole array at a time
    out |= quantised.store(name, whole, storage)
    del whole
    bar.update(_size(array))
  bar.close()
  return out


def _size(array: Any) -> int:
  return int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize


def _tree(metadata: Any) -> dict[str, Any]:
  """The tree inside Orbax's metadata, whose wrapper differs by version."""
  for name in ("item_metadata", "tree"):
    metadata = getattr(metadata, name, metadata)
  return metadata
