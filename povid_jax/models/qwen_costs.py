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


def forward(config: LlavaConfig, patches: float, rows: float) -> float:
  """See tower_costs.

  In a layer with windows a block of patches meets three blocks of keys, in the
  others every patch meets all of its row.
  """
  if not patches:
    return 0.0
  tower = _tower(config)
  dim = tower.hidden_size
  embed = 2 * 3 * tower.patch_size**2 * dim
  weights = sizes.weights(sizes.qwen_vision_linears(tower))
  full = len(set(tower.full_layers))
  keys = full * patches / rows
  keys += (tower.num_layers - full) * 3 * tower.window_patches
  layers = tower.num_layers * 2 * weights + 4 * keys * dim
  return patches * (embed + layers)


def projector(config: LlavaConfig, patches: float) -> tuple[float, float]:
  """See tower_costs."""
  tower = _tower(config)
  wide = tower.hidden_size * tower.merged
  per_token = 2 * wide * patches / tower.merged
  return per_token * wide, per_token * config.decoder.hidden_size


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
