"""POVID on LLaVA-NeXT (LLaVA-1.6), whose pictures are cut into tiles.

  python -m povid_jax.train --config=configs/povid_next.py:llava-next-7b \\
    --config.init=NEXT --config.data.train=DATA --workdir=runs/next

NEXT is a model folder (`povid_jax.convert from-torch`), or a stage 1 run of
the same command with --config.objective.name=dpo. No run of POVID on this
family was released: this is configs/povid_stage2.py with what tiles change. The
variant names dimensions for `povid_jax.plan`; training takes them from NEXT.
"""

from ml_collections import ConfigDict

BASE = "povid_stage2.py"
VARIANTS = (
  "llava-next-7b",
  "llava-next-13b",
  "llava-next-mistral-7b",
  "llava-next-llama3-8b",
  "llava-next-34b",
)


def get_config(variant: str = "llava-next-7b") -> ConfigDict:
  """What changes from stage 2 of LLaVA-1.5, the same for every variant."""
  del variant
  c = ConfigDict()
  # prompts are 1,200 to 3,000 tokens long, most of them of the picture
  c.data = ConfigDict({"bucket_multiple": 64})
  # Deviation: LLaVA-1.5 shrinks pictures, which averages noise away, and this
  # family enlarges them. The paper's 500 leaves less of the picture here:
  # sweep the step first (docs/models.md). The noise is put on before the tiles
  # are cut: all show the same.
  c.noise = ConfigDict({"step": 500})
  return c
