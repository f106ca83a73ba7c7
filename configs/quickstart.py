"""The whole of POVID on drawn pictures and a CPU: every stage of the toy.

  python -m povid_jax.train --config=configs/quickstart.py:stage2 \\
    --workdir=runs/quickstart/stage2

`make quickstart` runs the stages in order and makes what they read. Paths are
those that it uses; another folder needs --config.init and --config.data.train.

  pretrain       the stand-in for CLIP and projector pre-training: all weights
                 learn to name what is in every cell of balanced pictures
  sft            instruction tuning: the base that hallucinates
  stage1         DPO, injected negatives
  stage2         POVID, injected and noise-triggered negatives
  sft_continued  control: stage 1 and 2 as plain SFT on the chosen answers
  own_answers    DPO on pairs of the base's own answers, which gain most
  own_context    the same, sentence by sentence after the same beginning
  injected_only, noise_only, half_injected   ablations of stage 2
"""

from ml_collections import ConfigDict

ROOT = "runs/quickstart"
VARIANTS = (
  "pretrain",
  "sft",
  "stage1",
  "stage2",
  "sft_continued",
  "own_answers",
  "own_context",
  "injected_only",
  "noise_only",
  "half_injected",
)


def get_config(variant: str = "stage2") -> ConfigDict:
  """Raises KeyError for a variant that is not in VARIANTS."""
  c = ConfigDict()
  c.dtype = "float32"  # CPUs have no fast bfloat16
  c.remat = "none"
  c.attention = "xla"
  c.head_chunk = 1024
  c.batch_size = 32
  c.clip_norm = 1.0
  c.warmup_ratio = 0.06
  c.data = ConfigDict({"buckets": 1, "bucket_multiple": 8})
  c.log = ConfigDict({"every": 20, "tensorboard": True})
  c.checkpoint = ConfigDict({"every": 100, "keep": 1})
  c.mesh = ConfigDict({"data": 1, "fsdp": 1, "tensor": 1})
  _STAGES[variant](c)
  return c


def _pretrain(c: ConfigDict) -> None:
  c.init = f"{ROOT}/base"
  c.data.train = f"{ROOT}/records/pretrain"
  c.objective = ConfigDict({"name": "sft"})
  c.trainable = "all"
  c.batch_size = 16  # many small steps: at 48 it is not over after 550
  c.lr = 2e-3
  c.warmup_ratio = (
    0.25  # a high rate before it has learnt to look: it never does
  )
  c.b2 = 0.98
  c.steps = 1500


def _sft(c: ConfigDict) -> None:
  c.init = f"{ROOT}/pretrain"
  c.data.train = f"{ROOT}/records/sft"
  c.objective = ConfigDict({"name": "sft"})
  c.trainable = r"^(projector|decoder)/"  # the tower stays as it is
  c.data.buckets = 2  # descriptions and conversations
  c.data.bucket_multiple = 16  # one length of prompts: a program less for each
  c.batch_size = 16
  c.lr = 1.5e-3
  c.steps = 1500


def _adapters(c: ConfigDict) -> None:
  c.data.train = f"{ROOT}/records/pairs"
  c.trainable = "lora"
  c.lora = ConfigDict({"rank": 16, "alpha": 32.0})
  c.noise = ConfigDict({"overflow": "clip"})


def _stage1(c: ConfigDict) -> None:
  _adapters(c)
  c.init = f"{ROOT}/sft"
  c.objective = ConfigDict({"name": "dpo", "hyper": {"beta": 1.0}})
  c.lr = 4e-4
  c.steps = 94  # once through the 3,000 pairs


def _stage2(c: ConfigDict) -> None:
  _stage1(c)
  c.init = f"{ROOT}/stage1"
  c.objective = ConfigDict(
    {
      "name": "povid",
      "hyper": {"beta": 1.0, "text_weight": 0.5, "noise_weight": 0.5},
    }
  )
  c.noise.step = 300  # at 500 nothing is left of these pictures
  c.lr = 3e-5  # more costs recall: the noise term favours the end of the answer
  c.steps = 40


def _sft_continued(c: ConfigDict) -> None:
  _adapters(c)
  c.init = f"{ROOT}/sft"
  c.objective = ConfigDict({"name": "sft"})
  c.lr = 1e-3
  c.steps = 134  # as many as stages 1 and 2 together


def _own_answers(c: ConfigDict) -> None:
  _stage1(c)
  c.data.train = f"{ROOT}/records/own"


def _own_context(c: ConfigDict) -> None:
  _stage1(c)
  c.data.train = f"{ROOT}/records/context"
  c.data.buckets = 2  # an answer's first sentences and its last


def _weights(text: float, noise: float):
  def change(c: ConfigDict) -> None:
    _stage2(c)
    c.objective.hyper.text_weight = text
    c.objective.hyper.noise_weight = noise

  return change


_STAGES = {
  "pretrain": _pretrain,
  "sft": _sft,
  "stage1": _stage1,
  "stage2": _stage2,
  "sft_continued": _sft_continued,
  "own_answers": _own_answers,
  "own_context": _own_context,
  "injected_only": _weights(1.0, 0.0),
  "noise_only": _weights(0.0, 1.0),
  "half_injected": _weights(0.5, 0.0),
}
