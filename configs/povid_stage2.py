"""POVID stage 2: injected hallucinations and those the image noise triggers.

  python -m povid_jax.train --config=configs/povid_stage2.py:7b \\
    --config.init=runs/stage1 --config.data.train=DATA --workdir=runs/stage2

The stage 1 run is the start and the reference: its adapters are folded into
the base and new ones are trained, as the released recipe merges them. Source:
scripts/run_povid.sh with tool/dpo_trainer_inherent.py of YiyangZhou/POVID.
`13b` has the same hyper-parameters: no 13B run was released.

On N devices batch_size must be a multiple of N / mesh.tensor; ask
`python -m povid_jax.plan` first.
"""

from ml_collections import ConfigDict

VARIANTS = ("7b", "13b")


def get_config(variant: str = "7b") -> ConfigDict:
  """The fields that differ from povid_jax.config.default()."""
  if variant not in VARIANTS:
    raise ValueError(f"want one of {VARIANTS}, got {variant!r}")
  c = ConfigDict()
  c.seed = 0

  # Deviation: released text is cut at 1024 tokens before the image's 576 are
  # put in, and the whole at 1048. Here nothing is cut: lengths are the data's.
  c.data = ConfigDict()
  c.data.split = "train"
  c.data.on_too_long = "refuse"

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
  # reference's log-probs are fixed and computed once for the dataset.
  c.reference = "cached"

  c.trainable = "lora"
  c.lora = ConfigDict()
  c.lora.rank = 128
  c.lora.alpha = 256.0
  # The script's dropout of 0.05 is switched off by the trainer
  # (disable_dropout), so there is none here either.
  # The script asks for a projector rate of 2e-5, but PEFT freezes the
  # projector; it stays frozen, as in the released weights.
  c.projector_lr = 0.0

  c.lr = 1e-7
  c.schedule = "cosine"
  c.warmup_ratio = 0.03
  c.weight_decay = 0.0
  c.b1, c.b2, c.eps = 0.9, 0.999, 1e-8
  c.clip_norm = 0.0  # DeepSpeed's file asks for none
  c.batch_size = 1
  c.grad_accum = 1
  c.epochs = 1.0  # final script; the first, of the paper's release, had 3

  # ZeRO-2 with bf16 keeps float32 masters; so do we, for what is trained.
  c.dtype = "bfloat16"

  c.checkpoint = ConfigDict()
  c.checkpoint.every = 200
  c.checkpoint.keep = 1
  return c
