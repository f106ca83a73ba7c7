"""An Orbax checkpoint that is written piece by piece."""

from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from povid_jax.checkpoints import checksums
from povid_jax.checkpoints.stream import (
  Pieces,
  load_array,
  open_pieces,
  save_pieces,
  whole,
)
from povid_jax.errors import UserError
from povid_jax.models.sharding import make_mesh

BF16 = np.dtype(ml_dtypes.bfloat16)


def _rows() -> list[np.ndarray]:
  rng = np.random.default_rng(0)
  return [rng.standard_normal((8, 6)).astype(BF16) for _ in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
  tree = {
    "a/layers/kernel": Pieces((3, 8, 6), BF16, iter(_rows()), stacked=True),
    "a/table": whole(np.arange(12.0, dtype=np.float32).reshape(3, 4)),
    "b": whole(jnp.arange(5, dtype=jnp.float16)),
    "scalar": whole(np.float32(3)),
  }
  save_pieces(tmp_path / "params", tree)
  return tmp_path / "params"


def test_orbax_restores_it(folder: Path):
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(folder)
  np.testing.assert_array_equal(tree["a"]["layers"]["kernel"], _rows())
  assert tree["a"]["layers"]["kernel"].dtype == BF16
  np.testing.assert_array_equal(tree["a"]["table"][2], [8, 9, 10, 11])
  assert tree["b"].dtype == jnp.float16 and tree["b"].shape == (5,)
  assert tree["scalar"] == 3


def test_it_restores_into_a_sharding_and_a_dtype(folder: Path):
  mesh = make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
  cut = NamedSharding(mesh, P(None, "fsdp", "tensor"))
  copied = NamedSharding(mesh, P())
  target = {
    "a": {
      "layers": {
        "kernel": jax.ShapeDtypeStruct((3, 8, 6), jnp.float32, sharding=cut)
      },
      "table": jax.ShapeDtypeStruct((3, 4), jnp.float32, sharding=copied),
    },
    "b": jax.ShapeDtypeStruct((5,), jnp.float16, sharding=copied),
    "scalar": jax.ShapeDtypeStruct((), jnp.float32, sharding=copied),
  }
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(folder, target)
  kernel = tree["a"]["layers"]["kernel"]
  assert kernel.sharding == cut
  assert kernel.addressable_shards[0].data.shape == (3, 2, 3)
  want = np.stack(_rows()).astype(np.float32)
  np.testing.assert_array_equal(kernel, want)


def test_one_file_for_each_layer(folder: Path):
  """A chunk is a layer: sharded hosts read only theirs."""
  files = sorted(p.name for p in (folder / "a.layers.kernel").iterdir())
  assert files == [".zarray", "0.0.0", "1.0.0", "2.0.0"]


def test_a_lost_or_cut_file_is_named_and_not_read_as_zeros(folder: Path):
  arrays = open_pieces(folder)
  np.testing.assert_array_equal(arrays["a/layers/kernel"][1], _rows()[1])
  lost, cut = folder / "a.layers.kernel" / "1.0.0", folder / "a.table" / "0.0"
  lost.unlink()
  cut.write_bytes(cut.read_bytes()[:-4])
  np.testing.assert_array_equal(arrays["a/layers/kernel"][2], _rows()[2])
  with pytest.raises(UserError, match=f"{lost}.* is missing") as caught:
    arrays["a/layers/kernel"][1]
  assert "\n" not in str(caught.value)
  with pytest.raises(UserError, match=f"{cut}.*"):
    np.asarray(arrays["a/table"])


def test_arrays_are_loaded_layer_by_layer(folder: Path):
  """Whole, cut over devices, and cast: as Orbax restores them."""
  mesh = make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
  stored = open_pieces(folder)
  for spec in (P(), P(None, "fsdp", "tensor"), P(None, "tensor")):
    loaded = load_array(
      stored["a/layers/kernel"], jnp.float32, NamedSharding(mesh, spec)
    )
    assert loaded.dtype == jnp.float32 and loaded.sharding.spec == spec
    np.testing.assert_array_equal(loaded, np.stack(_rows()).astype(np.float32))
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  np.testing.assert_array_equal(
    load_array(stored["a/table"], np.float32, one),
    np.arange(12.0).reshape(3, 4),
  )
  assert load_array(stored["scalar"], jnp.bfloat16, one) == 3
  (folder / "a.layers.kernel/1.0.0").unlink()
  with pytest.raises(
    UserError, match="weights cannot be read.*1.0.0"
  ) as caught:
    load_array(open_pieces(folder)["a/layers/kernel"], BF16, one)
  assert "\n" not in str(caught.value)


def test_checksums_of_what_is_written_are_those_of_the_files(tmp_path: Path):
  tree = {
    "a/layers/kernel": Pieces((3, 8, 6), BF16, iter(_rows()), stacked=True),
    "a/table": whole(np.arange(12.0, dtype=np.float32).reshape(3, 4).T),
    "scalar": whole(np.float32(3)),
  }
  written = save_pieces(tmp_path / "params", tree)
  found = checksums.Sums()
  for file in (tmp_path / "params").rglob("*"):
    if file.is_file():
      found.note(file.parent.name, file.name, checksums.of_file(file))
  assert set(written) == {"a.layers.kernel", "a.table", "scalar"}
  assert found.arrays() == written
