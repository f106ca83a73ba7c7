"""POVID stage 2: injected hallucinations and those the image noise triggers.

  python -m povid_jax.train --config=configs/povid_stage2.py:7b \\
    --config.init=runs/stage1 --config.data.train=DATA --workdir=runs/stage2

Stage 1 with the changes below; its variants are the same. The stage 1 run is
the start and the reference: its adapters are folded into the base and new ones
are trained, as the released recipe merges them. Source: scripts/run_povid.sh
with tool/dpo_trainer_inherent.py of YiyangZhou/POVID.
"""

from ml_collections import ConfigDict

BASE = "povid_stage1.py"
VARIANTS = ("7b", "13b", "7b_8gpu", "7b_v5e16")


def get_config(variant: str = "7b") -> ConfigDict:
  """What changes from stage 1, the same for every variant."""
  del variant
  c = ConfigDict()
  # Half DPO against the injected answer, half against the noise tokens.
  c.objective = ConfigDict()
  c.objective.name = "povid"
  c.objective.hyper = ConfigDict({"beta": 0.1})
  c.noise = ConfigDict()
  c.noise.step = 500
  c.noise.tokens = "argmax"  # final code; the first had argmax_exclude_gold
  c.noise.overflow = "wrap"  # the released noise wraps bytes
  c.noise.site = "image"  # the raw picture, before padding and resizing
  c.noise.per_epoch = True
  # Deviation in speed only: with one epoch each picture has one noise, so the
  # reference's log-probs are fixed and computed before step 0. That pass takes
  # about as long as it saves in one epoch; it pays for a second run on the same
  # data (config.reference_cache). More epochs need noise.per_epoch=False with
  # it, or reference=online.
  c.reference = "cached"
  c.epochs = 1.0  # final script; the first, of the paper's release, had 3
  return c
