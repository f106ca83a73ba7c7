"""What a tower and its projector cost, by the dimensions of the tower.

A family's module has
  KERNEL     a weight of the tower that is trained where the tower is
  forward    (config, tiles, rows) -> sizes.TowerFlops of so many tiles, in so
             many rows
  layers     config -> how often a tile passes a linear layer, over all tokens
             and layers, and the sizes of a layer's linear layers
  projector  (config, tiles) -> its tokens, and its layers' sizes
  memory     (config, rows, tiles of a row, itemsize) -> bytes of a layer's
             working set
  again      (config, remat) -> whether a trained tower runs its forward pass
             again for the backward pass
where tiles are what the layout counts: squares, or patches.
"""

from types import ModuleType

from povid_jax.models import qwen_costs, vit_costs
from povid_jax.models.config import LlavaConfig, QwenVisionConfig, VisionConfig

_COSTS: dict[type, ModuleType] = {
  VisionConfig: vit_costs,
  QwenVisionConfig: qwen_costs,
}


def of(config: LlavaConfig) -> ModuleType:
  """The costs of a model's tower and projector."""
  return _COSTS[type(config.vision)]
