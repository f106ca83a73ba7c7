"""Fields of relatives of Llama that change its numbers."""

from pathlib import Path

import pytest

from povid_jax.errors import UserError
from povid_jax.models.config import VisionConfig
from povid_jax.weights import named_tower
from povid_jax.weights.fields import refuse_changes

WHERE = Path("config.json")


@pytest.mark.parametrize(
  "field",
  [
    "scale_emb", "scale_depth", "dim_model_base", "embedding_multiplier",
    "residual_multiplier", "logits_scaling", "logit_scale",
    "final_logit_softcapping", "attn_logit_soft_cap", "query_pre_attn_scalar",
    "use_qk_norm", "qk_layernorm", "clip_qkv", "num_local_experts", "alibi",
    "use_parallel_residual", "s2_scales",
  ],
)  # fmt: skip
def test_a_field_that_changes_the_numbers(field: str):
  with pytest.raises(UserError, match=f"{field} is 12"):
    refuse_changes({"hidden_size": 64, field: 12}, WHERE)
  with pytest.raises(UserError, match=f"{field} is True"):
    refuse_changes({field: True}, WHERE)
  for neutral in (None, False, 1, 1.0, [], ""):
    refuse_changes({field: neutral}, WHERE)


def test_fields_of_published_decoders_pass():
  refuse_changes(
    {
      "rope_scaling": {"type": "linear", "factor": 4},
      "rope_theta": 1e6,
      "mm_projector_type": "mlp2x_gelu",
      "initializer_range": 0.02,
      "max_window_layers": 28,
      "use_mrope": False,
      "attention_dropout": 0.1,
      "pretraining_tp": 1,
      "image_split_resolution": 336,
      "layer_types": ["full_attention"] * 2,
    },
    WHERE,
  )


def test_layers_of_several_kinds():
  kinds = ["full_attention", "sliding_attention"]
  with pytest.raises(UserError, match="layer_types has several types"):
    refuse_changes({"layer_types": kinds}, WHERE)


CLIP = "openai/clip-vit-large-patch14-336"
SIGLIP = VisionConfig(
  image_size=384, class_token=False, pre_norm=False, patch_bias=True
)


@pytest.mark.parametrize(
  ("named", "given", "fits"),
  [
    (CLIP, VisionConfig(), True),
    (CLIP, VisionConfig(image_size=224), False),
    ("openai/clip-vit-large-patch14", VisionConfig(image_size=224), True),
    ("/data/clip-vit-large-patch14", VisionConfig(), False),
    ("openai/clip-vit-base-patch16", VisionConfig(image_size=224), False),
    ("google/siglip-so400m-patch14-384", SIGLIP, True),
    ("google/siglip-so400m-patch14-384", VisionConfig(image_size=384), False),
    (CLIP, SIGLIP, False),
    ("my-own-tower", VisionConfig(image_size=224), True),
    (CLIP, VisionConfig(image_size=28), True),  # published by nobody
    (None, VisionConfig(), True),
  ],
)
def test_the_tower_that_is_named(named, given: VisionConfig, fits: bool):
  ask = lambda: named_tower.check(named, given, Path("tower"), WHERE)
  if fits:
    ask()
    return
  with pytest.raises(UserError, match=f"mm_vision_tower is {named}, and"):
    ask()
