"""DPO of context pairs on Qwen2.5-VL: one sentence against another.

  python -m povid_jax.train --config=configs/povid_qwen.py:qwen2.5-vl-7b \\
    --config.init=QWEN --config.data.train=DATA --workdir=runs/qwen

QWEN is a model folder (`povid_jax.convert from-torch Qwen2.5-VL-7B-Instruct`),
DATA a directory of `data_gen write` whose pairs go on from the same context,
as SENTINEL's do (arXiv 2507.12455; its data and adapters are published). The
hyper-parameters are its published ones; 3B has the same: SENTINEL tuned 7B. A
variant names dimensions for `povid_jax.plan`.

On N devices batch_size must be a multiple of N / mesh.tensor; ask
`python -m povid_jax.plan` first.
"""

from ml_collections import ConfigDict

VARIANTS = ("qwen2.5-vl-7b", "qwen2.5-vl-3b")


def get_config(variant: str = "qwen2.5-vl-7b") -> ConfigDict:
  """The values that define the run, also where they are the default."""
  if variant not in VARIANTS:
    raise ValueError(f"want one of {VARIANTS}, got {variant!r}")
  c = ConfigDict()
  c.seed = 0

  c.data = ConfigDict()
  c.data.split = "train"
  c.data.on_too_long = "refuse"
  # Pictures keep their size, so prefixes differ more than a LLaVA's do.
  c.data.buckets = 4

  # The context stands in the prefix and cancels: its DPO is plain DPO.
  c.objective = ConfigDict()
  c.objective.name = "dpo"
  c.objective.hyper = ConfigDict({"beta": 0.1})
  # Deviation in speed only: the reference's log-probs never change, so they
  # are computed once for the dataset.
  c.reference = "cached"

  # The decoder's linear layers; tower and merger stay frozen.
  c.trainable = "lora"
  c.lora = ConfigDict()
  c.lora.rank = 128
  c.lora.alpha = 256.0
  c.projector_lr = 0.0

  c.lr = 2e-6
  c.schedule = "cosine"
  c.warmup_ratio = 0.03
  c.weight_decay = 0.0
  c.batch_size = 64
  c.epochs = 1.0

  c.dtype = "bfloat16"
  return c
