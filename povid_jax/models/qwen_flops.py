"""FLOPs of Qwen2.5-VL's tower and merger, counted as flops.py counts."""

from povid_jax.models.config import LlavaConfig, QwenVisionConfig


def padded(config: QwenVisionConfig, patches: int) -> int:
  """Patches of a row as the device has them: whole blocks of a window."""
  block = config.window_patches
  return -(-patches // block) * block


def tower(config: QwenVisionConfig, patches: float) -> float:
  """Forward FLOPs of one row.

  In a layer with windows a block of patches meets three blocks of keys, in the
  others every patch meets all of the row.

  Args:
    patches: of all pictures of the row, padding included.
  """
  dim = config.hidden_size
  embed = 2 * 3 * config.patch_size**2 * dim
  weights = 4 * dim**2 + 3 * dim * config.intermediate_size
  full = len(set(config.full_layers))
  keys = full * patches
  keys += (config.num_layers - full) * 3 * config.window_patches
  layers = config.num_layers * 2 * weights + 4 * keys * dim
  return patches * (embed + layers)


def merger(config: LlavaConfig, patches: float) -> tuple[float, float]:
  """Forward FLOPs of the merger's two layers over so many patches."""
  tower = config.vision
  assert isinstance(tower, QwenVisionConfig)
  wide = tower.hidden_size * tower.merged
  per_token = 2 * wide * patches / tower.merged
  return per_token * wide, per_token * config.decoder.hidden_size
