"""FLOPs of Qwen2.5-VL's tower: our count against the compiler's."""

import dataclasses

import jax
import pytest

from povid_jax.data import layout as layout_lib
from povid_jax.data.room import Extent
from povid_jax.models import flops, params, qwen_costs
from povid_jax.models.config import (
  DecoderConfig,
  LayoutConfig,
  LlavaConfig,
  QwenVisionConfig,
)
from povid_jax.models.work import Setup

TOWER = QwenVisionConfig(
  hidden_size=128,
  intermediate_size=192,
  num_layers=1,
  num_heads=2,
  window_size=56,
)
DECODER = DecoderConfig(
  vocab_size=64,
  hidden_size=96,
  intermediate_size=64,
  num_layers=1,
  num_heads=2,
  num_kv_heads=1,
  head_dim=32,
  mrope_sections=(4, 6, 6),
)


@pytest.mark.parametrize("full", [(), (0,)])
def test_close_to_the_compiler(full):
  """One layer: the compiler counts the body of a loop once."""
  tower = dataclasses.replace(TOWER, full_layers=full)
  config = LlavaConfig(tower, DECODER, layout=LayoutConfig("native"))
  graph, shapes = params.abstract(config)
  rows, extent = 2, Extent(250, 62)
  one = layout_lib.of(config).describe(extent)
  images = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype), one
  )
  encode = lambda p, x: params.merge(graph, p).encode_images(x)
  compiled = jax.jit(encode).lower(shapes, images).compile()
  patches = qwen_costs.padded(tower, extent.tiles)
  assert patches == 256
  model = Setup(config)
  ours = flops.vision(model, rows * patches, rows=rows)
  ours += flops.projector(model, rows * patches)
  counted = compiled.cost_analysis()["flops"]
  assert ours.forward == pytest.approx(counted, rel=0.05)
