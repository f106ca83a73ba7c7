"""POVID on LLaVA-OneVision: SigLIP, Qwen2, and up to 37 tiles a picture.

  python -m povid_jax.train --config=configs/povid_onevision.py \\
    --config.init=ONEVISION --config.data.train=DATA --workdir=runs/onevision

ONEVISION is a model folder (`povid_jax.convert from-torch`). No run of POVID on
this family was released. It is configs/povid_next.py, noise step included,
with the changes below. Learning rate, warm-up and batch are those of the
authors' own DPO of the 7B (scripts/train/dpo_ov7b.sh of
LLaVA-VL/LLaVA-NeXT), which trains the whole model; here adapters are trained,
as in POVID. A variant (povid_onevision.py:llava-onevision-7b) names dimensions
for `povid_jax.plan`; training takes them from ONEVISION.
"""

from ml_collections import ConfigDict

BASE = "povid_next.py"
VARIANTS = (
  "llava-onevision-0.5b",
  "llava-onevision-7b",
  "llava-onevision-72b",
)


def get_config(variant: str = "llava-onevision-0.5b") -> ConfigDict:
  """What changes from configs/povid_next.py, the same for every variant."""
  del variant
  c = ConfigDict()
  # prompts are 900 to 7,400 tokens long, most of them of the picture
  c.data = ConfigDict({"bucket_multiple": 128})
  c.lr = 5e-7
  c.warmup_ratio = 0.1
  c.clip_norm = 1.0
  c.batch_size = 8
  c.grad_accum = 8
  return c
