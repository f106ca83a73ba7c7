"""POVID on LLaVA-OneVision: SigLIP, Qwen2, and up to 37 tiles a picture.

  python -m povid_jax.train --config=configs/povid_onevision.py \\
    --config.init=ONEVISION --config.data.train=DATA --workdir=runs/onevision

ONEVISION is a model folder (`povid_jax.convert from-torch`). No run of POVID on
this family was released. Learning rate, warm-up and batch are those of the
authors' own DPO of the 7B (scripts/train/dpo_ov7b.sh of
LLaVA-VL/LLaVA-NeXT), which trains the whole model; here adapters are trained,
as in POVID. A variant (povid_onevision.py:llava-onevision-7b) names dimensions
for `povid_jax.plan`; training takes them from ONEVISION.
"""

from ml_collections import ConfigDict

VARIANTS = (
  "llava-onevision-0.5b",
  "llava-onevision-7b",
  "llava-onevision-72b",
)


def get_config(variant: str = "llava-onevision-0.5b") -> ConfigDict:
  """The values that define the run, also where they are the default."""
  if variant not in VARIANTS:
    raise ValueError(f"want one of {VARIANTS}, got {variant!r}")
  c = ConfigDict()
  c.seed = 0
  c.data = ConfigDict()
  c.data.split = "train"
  c.data.on_too_long = "refuse"
  # prompts are 900 to 7,400 tokens long, most of them of the picture
  c.data.bucket_multiple = 128

  c.objective = ConfigDict()
  c.objective.name = "povid"
  c.objective.hyper = ConfigDict({"beta": 0.1})
  c.noise = ConfigDict()
  # Deviation: tiles enlarge a picture where LLaVA-1.5 shrinks it, so the
  # paper's 500 leaves less of it: sweep the step first (docs/models.md).
  c.noise.step = 500
  c.noise.tokens = "argmax"
  c.noise.overflow = "wrap"
  c.noise.site = "image"  # before the tiles are cut: all show the same noise
  c.noise.per_epoch = True
  c.reference = "cached"

  c.trainable = "lora"
  c.lora = ConfigDict()
  c.lora.rank = 128
  c.lora.alpha = 256.0
  c.projector_lr = 0.0

  c.lr = 5e-7
  c.schedule = "cosine"
  c.warmup_ratio = 0.1
  c.weight_decay = 0.0
  c.b1, c.b2, c.eps = 0.9, 0.999, 1e-8
  c.clip_norm = 1.0
  c.batch_size = 8
  c.grad_accum = 8
  c.epochs = 1.0
  c.dtype = "bfloat16"

  c.checkpoint = ConfigDict()
  c.checkpoint.every = 200
  c.checkpoint.keep = 1
  return c
