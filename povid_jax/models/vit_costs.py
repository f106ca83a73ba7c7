"""FLOPs and memory of the LLaVA families' tower and projector."""

from povid_jax.models import sizes
from povid_jax.models.config import LlavaConfig

KERNEL = "vision/layers/self_attn/q_proj/kernel"


def forward(config: LlavaConfig, tiles: float, rows: float) -> float:
  """See tower_costs."""
  del rows  # no tile sees another
  tower = config.square_tower
  dim, tokens = tower.hidden_size, tower.num_tokens
  patch = 2 * tower.num_patches * 3 * tower.patch_size**2 * dim
  weights = sizes.weights(sizes.vit_linears(tower))
  layer = 2 * tokens * weights + 4 * tokens**2 * dim
  return (patch + tower.num_used_layers * layer) * tiles


def projector(config: LlavaConfig, tiles: float) -> tuple[float, float]:
  """See tower_costs."""
  inputs, dim = config.vision.hidden_size, config.decoder.hidden_size
  tokens = tiles * config.image_tokens
  second = 0 if config.projector == "linear" else 2 * tokens * dim**2
  return 2 * tokens * inputs * dim, second


def memory(config: LlavaConfig, rows: int, tiles: int, itemsize: int) -> int:
  """See tower_costs."""
  tower, count = config.square_tower, rows * tiles
  square = 4 * count * tower.num_heads * tower.num_tokens**2
  width = 6 * tower.hidden_size + 2 * tower.intermediate_size
  return int(count * tower.num_tokens * width * itemsize + 3 * square)


def again(config: LlavaConfig, remat: str) -> bool:
  """Tiles that are seen few at a time keep nothing for the backward pass."""
  return config.layout.newline and remat != "none"
