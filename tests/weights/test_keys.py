"""The key tables: every layout, both directions, strict."""

import dataclasses
import math

import pytest

from povid_jax.errors import UserError
from povid_jax.models import params as params_lib
from povid_jax.models.config import LlavaConfig
from povid_jax.models.presets import preset
from povid_jax.weights import keys

TINY = preset("test")


def _replaced(**fields: object) -> LlavaConfig:
  decoder = dataclasses.replace(TINY.decoder, **fields)
  return dataclasses.replace(TINY, decoder=decoder)


@pytest.mark.parametrize(
  "config",
  [
    TINY,
    _replaced(tie_embeddings=True),
    _replaced(attention_bias=True),
    _replaced(attention_bias=True, output_bias=True),
    dataclasses.replace(TINY, projector="linear"),
    preset("llava-1.5-7b"),
    preset("llava-next-mistral-7b"),
    preset("llava-onevision-0.5b"),
  ],
)
def test_the_table_covers_the_model_exactly(config):
  _, shapes = params_lib.abstract(config)
  table = {entry.path: entry.our_shape for entry in keys.entries(config)}
  assert table == {path: leaf.shape for path, leaf in shapes.items()}


def test_seven_billion_counts():
  """Numbers of tensors and parameters of the released checkpoints."""
  entries = keys.entries(preset("llava-1.5-7b"))
  by_part = {"vision": 0, "projector": 0, "decoder": 0, "head": 0}
  sizes = dict.fromkeys(by_part, 0)
  for entry in entries:
    by_part[entry.part] += len(entry.names())
    one = 1
    for size in entry.our_shape:
      one *= size
    sizes[entry.part] += one
  assert by_part == {"vision": 391, "projector": 4, "decoder": 290, "head": 1}
  assert sizes["decoder"] + sizes["head"] == 6_738_415_616
  assert sizes["projector"] == 20_979_712
  assert sizes["vision"] == 303_507_456


@pytest.mark.parametrize(
  ("name", "tensors", "parameters"),
  [
    # the hub says 7.57, 0.894 and 8.03 billion
    ("llava-next-mistral-7b", 687, 7_566_223_360),
    ("llava-onevision-0.5b", 716, 893_675_552),
    ("llava-onevision-7b", 765, 8_030_807_584),
  ],
)
def test_published_sizes(name: str, tensors: int, parameters: int):
  entries = keys.entries(preset(name))
  assert sum(len(entry.names()) for entry in entries) == tensors
  assert sum(math.prod(entry.our_shape) for entry in entries) == parameters


@pytest.mark.parametrize(
  ("key", "spot"),
  [
    ("model.embed_tokens.weight", ("decoder", "embed_tokens.weight")),
    (
      "model.layers.3.mlp.up_proj.weight",
      ("decoder", "layers.3.mlp.up_proj.weight"),
    ),
    ("lm_head.weight", ("head", "weight")),
    ("model.mm_projector.0.weight", ("projector", "linear_1.weight")),
    ("model.mm_projector.2.bias", ("projector", "linear_2.bias")),
    ("model.mm_projector.weight", ("projector", "linear_1.weight")),
    (
      "model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias",
      ("vision", "pre_layrnorm.bias"),
    ),
    ("language_model.model.norm.weight", ("decoder", "norm.weight")),
    ("language_model.lm_head.weight", ("head", "weight")),
    ("multi_modal_projector.linear_2.weight", ("projector", "linear_2.weight")),
    (
      "vision_tower.vision_model.post_layernorm.weight",
      ("vision", "post_layernorm.weight"),
    ),
    ("model.language_model.norm.weight", ("decoder", "norm.weight")),
    (
      "model.multi_modal_projector.linear_1.bias",
      ("projector", "linear_1.bias"),
    ),
    (
      "model.vision_tower.vision_model.embeddings.class_embedding",
      ("vision", "embeddings.class_embedding"),
    ),
    (
      "model.vision_tower.embeddings.class_embedding",
      ("vision", "embeddings.class_embedding"),
    ),
    ("something.else", None),
  ],
)
def test_prefixes(key, spot):
  assert keys.split(key) == spot


def _names(config: LlavaConfig) -> list[str]:
  prefix = {
    "vision": "model.vision_tower.",
    "projector": "model.multi_modal_projector.",
    "decoder": "model.language_model.",
    "head": "lm_head.",
  }
  return [
    prefix[entry.part] + name
    for entry in keys.entries(config)
    for name, _ in entry.names()
  ]


def test_buffers_are_ignored_by_name_and_nothing_else():
  names = _names(TINY)
  buffers = [
    "model.language_model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.vision_tower.vision_model.embeddings.position_ids",
  ]
  entries = keys.entries(TINY)
  found = keys.match([*names, *buffers], entries, "here")
  assert sorted(found.values()) == sorted(names)
  with pytest.raises(UserError, match="here: tensors 1 unexpected .*inv_freqs"):
    keys.match([*names, "model.layers.0.inv_freqs"], entries, "here")


def test_missing_unexpected_and_doubled_are_listed():
  names = _names(TINY)
  gone = names.pop()
  extra = ["model.image_newline", "model.layers.9.mlp.up_proj.weight"]
  twice = "model.norm.weight"
  with pytest.raises(UserError) as caught:
    keys.match([*names, *extra, twice], keys.entries(TINY), "here")
  message = str(caught.value)
  assert "1 missing (head:weight)" in message and gone == "lm_head.weight"
  assert f"2 unexpected ({', '.join(extra)})" in message
  assert f"model.language_model.norm.weight = {twice}" in message
  assert "\n" not in message


def test_a_tied_head_may_be_in_the_file():
  config = _replaced(tie_embeddings=True)
  names = [*_names(config), "lm_head.weight"]
  found = keys.match(names, keys.entries(config), "here", tied=True)
  assert "lm_head.weight" not in found.values()
