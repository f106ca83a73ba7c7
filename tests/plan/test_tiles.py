"""Plans of models that cut pictures into tiles."""

import json

import pytest

from povid_jax.errors import UserError
from povid_jax.models import flops, vit_costs
from povid_jax.models.presets import preset
from povid_jax.models.work import Setup
from povid_jax.plan import __main__ as plan
from povid_jax.plan.abstract import Shape

CONFIG = "configs/povid_next.py:llava-next-7b"


def _plan(tmp_path, *flags):
  out = tmp_path / "plan.json"
  plan.main(
    [f"--config={CONFIG}", "--topology=gpu:1x141GB", "--no-suggestions",
     "--config.batch_size=16", f"--json={out}", *flags]
  )  # fmt: skip
  return json.loads(out.read_text())


def test_the_prefix_is_that_of_the_picture(tmp_path):
  """COCO's 640x480: 2,340 tokens and a question; five tiles are counted."""
  large = _plan(tmp_path)
  assert large["prefix"] == 2496
  small = _plan(tmp_path, "--image=100x1000")
  assert small["prefix"] == 1408
  assert large["flops_per_step"] > 1.6 * small["flops_per_step"]
  assert large["fits"]


@pytest.mark.parametrize("size", ["640", "0x480", "640x480x3", "ax1"])
def test_a_size_that_is_none(tmp_path, size):
  with pytest.raises(UserError, match="--image=.*want WIDTHxHEIGHT"):
    _plan(tmp_path, f"--image={size}")


def test_a_prefix_without_room(tmp_path):
  with pytest.raises(UserError, match="the pictures alone need 2340 tokens"):
    _plan(tmp_path, "--prefix=2340")


@pytest.mark.parametrize(
  ("name", "tiles"), [("llava-next-7b", 5), ("llava-onevision-0.5b", 5)]
)
def test_work_grows_with_the_tiles(name, tiles):
  """Forward FLOPs of a tile: 0.37 T (CLIP-L/336) and 0.64 T (so400m/384)."""
  described = preset(name)
  assert Shape().room(described).tiles == tiles
  one = flops.vision(Setup(described), 1).forward
  assert one == pytest.approx({7: 0.37e12, 5: 0.64e12}[int(name[-2])], rel=0.03)
  assert flops.vision(Setup(described), tiles).forward == tiles * one


def test_a_trained_tower_runs_again_where_tiles_come_by_few():
  described = preset("llava-next-7b")
  work = lambda **options: flops.vision(
    Setup(described, trains=lambda path: True, **options), 5
  )
  assert work(remat="full").recompute == work().forward
  assert work().recompute == 0


def test_the_towers_memory_grows_with_tiles_at_a_time():
  described = preset("llava-onevision-7b")
  memory = lambda tiles: vit_costs.memory(described, 16, tiles, 2)
  assert memory(5) == 5 * memory(1)
