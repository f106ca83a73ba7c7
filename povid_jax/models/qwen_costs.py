"""FLOPs and memory of Qwen2.5-VL's tower and merger, see tower_costs."""

from povid_jax.models import sizes
from povid_jax.models.config import LlavaConfig, QwenVisionConfig
from povid_jax.models.qwen_vision import PATCHES_AT_A_TIME

KERNEL = "vision/layers/attn/qkv/kernel"


def _tower(config: LlavaConfig) -> QwenVisionConfig:
  assert isinstance(config.vision, QwenVisionConfig)
  return config.vision


def padded(config: QwenVisionConfig, patches: int) -> int:
  """Patches of a row as the device has them: whole blocks of a window."""
  block = config.window_patches
  return -(-patches // block) * block


def forward(
  config: LlavaConfig, patches: float, rows: float
) -> sizes.TowerFlops:
  """See tower_costs.

  In a layer with windows a block of patches meets three blocks of keys, in the
  others every patch meets all of its row.
  """
  tower = _tower(config)
  dim = tower.hidden_size
  weights = sizes.weights(sizes.qwen_vision_linears(tower))
  full = len(set(tower.full_layers))
  keys = full * patches / rows if rows else 0.0
  keys += (tower.num_layers - full) * 3 * tower.window_patches
  return sizes.TowerFlops(
    patches * 2 * 3 * tower.patch_size**2 * dim,
    patches * tower.num_layers * 2 * weights,
    patches * 4 * keys * dim,
  )


def layers(config: LlavaConfig) -> tuple[int, tuple[sizes.Sizes, ...]]:
  """See tower_costs."""
  tower = _tower(config)
  return tower.num_layers, sizes.qwen_vision_linears(tower)


def projector(
  config: LlavaConfig, patches: float
) -> tuple[float, tuple[sizes.Sizes, ...]]:
  """See tower_costs."""
  tower = _tower(config)
  wide, dim = tower.hidden_size * tower.merged, config.decoder.hidden_size
  return patches / tower.merged, (
    sizes.Sizes("linear_1", wide, wide, True),
    sizes.Sizes("linear_2", wide, dim, True),
  )


def memory(config: LlavaConfig, rows: int, patches: int, itemsize: int) -> int:
  """See tower_costs."""
  tower = _tower(config)
  seen = min(patches, PATCHES_AT_A_TIME) * patches
  square = 4 * rows * tower.num_heads * seen
  width = 8 * tower.hidden_size + 3 * tower.intermediate_size
  return int(rows * patches * width * itemsize + 3 * square)


def again(config: LlavaConfig, remat: str) -> bool:
  """A layer keeps its input alone."""
  del config, remat
  return True
