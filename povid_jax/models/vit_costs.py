"""FLOPs and memory of the LLaVA families' tower and projector."""

from povid_jax.models import sizes
from povid_jax.models.config import LlavaConfig

KERNEL = "vision/layers/self_attn/q_proj/kernel"


def forward(config: LlavaConfig, tiles: float, rows: float) -> sizes.TowerFlops:
  """See tower_costs."""
  del rows  # no tile sees another
  tower = config.square_tower
  dim, tokens = tower.hidden_size, tower.num_tokens
  weights = sizes.weights(sizes.vit_linears(tower))
  layers = tower.num_used_layers * tiles
  return sizes.TowerFlops(
    tiles * 2 * tower.num_patches * 3 * tower.patch_size**2 * dim,
    layers * 2 * tokens * weights,
    layers * 4 * tokens**2 * dim,
  )


def layers(config: LlavaConfig) -> tuple[int, tuple[sizes.Sizes, ...]]:
  """See tower_costs."""
  tower = config.square_tower
  return tower.num_used_layers * tower.num_tokens, sizes.vit_linears(tower)


def projector(
  config: LlavaConfig, tiles: float
) -> tuple[float, tuple[sizes.Sizes, ...]]:
  """See tower_costs."""
  inputs, dim = config.vision.hidden_size, config.decoder.hidden_size
  first = sizes.Sizes("linear_1", inputs, dim, True)
  second = sizes.Sizes("linear_2", dim, dim, True)
  linear = config.projector == "linear"
  return tiles * config.image_tokens, (first,) if linear else (first, second)


def memory(config: LlavaConfig, rows: int, tiles: int, itemsize: int) -> int:
  """See tower_costs."""
  tower, count = config.square_tower, rows * tiles
  square = 4 * count * tower.num_heads * tower.num_tokens**2
  width = 6 * tower.hidden_size + 2 * tower.intermediate_size
  return int(count * tower.num_tokens * width * itemsize + 3 * square)


def again(config: LlavaConfig, remat: str) -> bool:
  """Tiles that are seen few at a time keep nothing for the backward pass."""
  return config.layout.newline and remat != "none"
