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

BASE = "povid_stage1.py"
VARIANTS = ("qwen2.5-vl-7b", "qwen2.5-vl-3b")


def get_config(variant: str = "qwen2.5-vl-7b") -> ConfigDict:
  """What changes from stage 1 of LLaVA-1.5, the same for every variant.

  The objective stays plain DPO: the context stands in the prefix and cancels.
  Tower and merger stay frozen.
  """
  del variant
  c = ConfigDict()
  # Pictures keep their size, so prefixes differ more than a LLaVA's do.
  c.data = ConfigDict({"buckets": 4})
  # With smaller chunks libtpu 0.0.52 cannot compile the step for a v5e:4x4.
  c.head_chunk = 512
  c.lr = 2e-6
  c.batch_size = 64
  c.epochs = 1.0
  return c
