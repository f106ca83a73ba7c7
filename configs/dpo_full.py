"""DPO of the whole decoder, its weights and optimizer cut over all devices.

  python -m povid_jax.train --config=configs/dpo_full.py:7b \\
    --config.init=LLAVA --config.data.train=DATA --workdir=runs/dpo_full

Not a released run: what to start from where LoRA is not wanted. The decoder's
float32 masters, both Adam moments and gradients take 16 bytes a parameter
(108 GB for 7B, 208 GB for 13B, over the devices of the mesh); the vision tower
and the projector stay frozen. Both variants have the same values.
"""

from ml_collections import ConfigDict

VARIANTS = ("7b", "13b")


def get_config(variant: str = "7b") -> ConfigDict:
  """Raises ValueError for a variant that is not in VARIANTS."""
  if variant not in VARIANTS:
    raise ValueError(f"want one of {VARIANTS}, got {variant!r}")
  c = ConfigDict()

  c.objective = ConfigDict()
  c.objective.name = "dpo"
  c.objective.hyper = ConfigDict({"beta": 0.1, "loss_type": "sigmoid"})
  # Cached, so that no frozen copy of the decoder is held for the reference.
  c.reference = "cached"

  c.trainable = "decoder"

  # The rate of the original DPO runs; clipped, as every weight moves.
  c.lr = 5e-7
  c.schedule = "cosine"
  c.warmup_ratio = 0.1
  c.weight_decay = 0.0
  c.clip_norm = 1.0
  c.batch_size = 64
  c.epochs = 1.0

  c.mesh = ConfigDict()
  c.mesh.data = 1
  c.mesh.fsdp = -1
  c.mesh.tensor = 1
  c.remat = "full"
  return c
