"""POVID on LLaVA-NeXT (LLaVA-1.6), whose pictures are cut into tiles.

  python -m povid_jax.train --config=configs/povid_next.py:llava-next-7b \\
    --config.init=NEXT --config.data.train=DATA --workdir=runs/next

NEXT is a model folder (`povid_jax.convert from-torch`), or a stage 1 run of
the same command with --config.objective.name=dpo. No run of POVID on this
family was released: hyper-parameters are those of configs/povid_stage2.py,
and what tiles change is said below. The variant names dimensions for
`povid_jax.plan`; training takes them from NEXT.
"""

from ml_collections import ConfigDict

VARIANTS = (
  "llava-next-7b",
  "llava-next-13b",
  "llava-next-mistral-7b",
  "llava-next-llama3-8b",
  "llava-next-34b",
)


def get_config(variant: str = "llava-next-7b") -> ConfigDict:
  """The values that define the run, also where they are the default."""
  if variant not in VARIANTS:
    raise ValueError(f"want one of {VARIANTS}, got {variant!r}")
  c = ConfigDict()
  c.seed = 0
  c.data = ConfigDict()
  c.data.split = "train"
  c.data.on_too_long = "refuse"
  # prompts are 1,200 to 3,000 tokens long, most of them of the picture
  c.data.bucket_multiple = 64

  c.objective = ConfigDict()
  c.objective.name = "povid"
  c.objective.hyper = ConfigDict({"beta": 0.1})
  c.noise = ConfigDict()
  # Deviation: LLaVA-1.5 shrinks pictures, which averages noise away, and this
  # family enlarges them. The paper's 500 leaves less of the picture here:
  # sweep the step first (docs/models.md).
  c.noise.step = 500
  c.noise.tokens = "argmax"
  c.noise.overflow = "wrap"
  c.noise.site = "image"  # before the tiles are cut: all show the same noise
  c.noise.per_epoch = True
  # the reference runs once over the data: it is a third of each step's work
  c.reference = "cached"

  c.trainable = "lora"
  c.lora = ConfigDict()
  c.lora.rank = 128
  c.lora.alpha = 256.0
  c.projector_lr = 0.0

  c.lr = 1e-7
  c.schedule = "cosine"
  c.warmup_ratio = 0.03
  c.weight_decay = 0.0
  c.b1, c.b2, c.eps = 0.9, 0.999, 1e-8
  c.clip_norm = 0.0
  c.batch_size = 1
  c.grad_accum = 1
  c.epochs = 1.0
  c.dtype = "bfloat16"

  c.checkpoint = ConfigDict()
  c.checkpoint.every = 200
  c.checkpoint.keep = 1
  return c
