"""Tiny LLaVA-NeXT and LLaVA-OneVision in PyTorch, with weights by name.

Every weight is a stream of random numbers keyed by its name in transformers 5,
so that anybody can make the same model again; `KNOWN` was computed with
transformers 5.24 (float32, eager attention, Pillow's processors).
"""

import dataclasses
import functools
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from povid_jax.data import layout as layouts
from povid_jax.models import params as params_lib
from povid_jax.models.config import LlavaConfig
from povid_jax.models.llava import IMAGE_TOKEN
from povid_jax.weights.load import open_checkpoint

torch = pytest.importorskip("torch")
import transformers  # noqa: E402
from transformers.models.llava_next.image_processing_pil_llava_next import (  # noqa: E402
  LlavaNextImageProcessorPil,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (  # noqa: E402, E501
  LlavaOnevisionImageProcessorPil,
)

IMAGE_ID, VIDEO_ID = 90, 91
BEFORE, AFTER = [1, 5, 6, 7], [8, 9, 10, 11, 12]  # an image stands between
ANSWER = [20, 21, 22, 23, 24, 2]
FAMILIES = ("next", "onevision")


class Known(NamedTuple):
  """What transformers gives for one picture."""

  size: tuple[int, int]  # width, height
  tiles: int
  tokens: int
  features: float  # sum of the packed features
  logits: float  # sum of all logits
  absolute: float  # sum of their absolute values
  logps: float  # sum over the answer


KNOWN = {
  "next": (
    Known((40, 30), 5, 70, -12.627570, -225.266017, 2827.746631, -27.618532),
    Known((28, 28), 3, 36, -5.825830, -66.006597, 1707.093224, -27.472625),
    Known((33, 100), 4, 76, -10.344666, -138.216258, 2994.185720, -27.903571),
  ),
  "onevision": (
    Known((40, 30), 3, 44, -13.050550, -183.177633, 1956.347357, -28.927862),
    Known((20, 14), 2, 26, -11.346868, -234.628904, 1434.983460, -29.047972),
    # its grid is shrunk
    Known(
      (200, 150), 31, 156, -45.284219, -634.418296, 5587.104218, -29.191627
    ),
  ),
}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
  """Waves and noise, a pure function of its arguments."""
  rng = np.random.Generator(np.random.Philox([seed, width, height]))
  y, x = np.mgrid[0:height, 0:width].astype(np.float64)
  waves = [
    127 + 100 * np.sin(x / 17 + y / 29),
    127 + 100 * np.cos(x / 11 - y / 23),
    (x * 3 + y * 5) % 256,
  ]
  noise = rng.integers(-20, 21, (height, width, 3))
  values = np.clip(np.stack(waves, -1) + noise, 0, 255)
  return Image.fromarray(values.astype(np.uint8))


def _weights(model: Any) -> Any:
  done = {}
  for name, p in sorted(model.state_dict().items()):
    if not p.dtype.is_floating_point:
      continue
    key = zlib.crc32(name.encode())
    rng = np.random.Generator(np.random.Philox(key))
    values = rng.standard_normal(tuple(p.shape)).astype(np.float32)
    values = values * 0.08
    if "norm" in name.lower() and name.endswith("weight"):
      values = 1.0 + values
    done[name] = torch.from_numpy(values)
  model.load_state_dict(done, strict=False)
  return model


def _next() -> Any:
  vision = transformers.CLIPVisionConfig(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=28,
    patch_size=7,
    projection_dim=16,
    hidden_act="quick_gelu",
  )
  text = transformers.LlamaConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position_embeddings=4096,
    rope_theta=10000.0,
    tie_word_embeddings=False,
  )
  config = transformers.LlavaNextConfig(
    vision_config=vision.to_dict(),
    text_config=text.to_dict(),
    image_token_index=IMAGE_ID,
    image_grid_pinpoints=[[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]],
    vision_feature_layer=-2,
    vision_feature_select_strategy="default",
  )
  return transformers.LlavaNextForConditionalGeneration(config)


def _onevision() -> Any:
  vision = transformers.SiglipVisionConfig(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=30,  # of which four patches use 28
    patch_size=7,
    vision_use_head=False,
  )
  text = transformers.Qwen2Config(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-6,
    max_position_embeddings=32768,
    rope_theta=1e6,
    tie_word_embeddings=True,
  )
  steps = range(30, 181, 30)
  config = transformers.LlavaOnevisionConfig(
    vision_config=vision.to_dict(),
    text_config=text.to_dict(),
    image_token_index=IMAGE_ID,
    video_token_index=VIDEO_ID,
    image_grid_pinpoints=[[h, w] for h in steps for w in steps],
    vision_feature_layer=-1,
    vision_feature_select_strategy="full",
    vision_aspect_ratio="anyres_max_9",
    tie_word_embeddings=True,
  )
  return transformers.LlavaOnevisionForConditionalGeneration(config)


@functools.cache
def model(family: str) -> Any:
  """A tiny model, float32, eager."""
  made = _next() if family == "next" else _onevision()
  made = _weights(made.float().eval())
  made.tie_weights()
  made.set_attn_implementation("eager")
  return made


def save(family: str, folder: Path) -> Path:
  """The model as transformers writes it, with what a processor says."""
  model(family).save_pretrained(folder)
  return folder


@functools.cache
def processor(family: str) -> Any:
  """Its image processor, of Pillow."""
  config = model(family).config
  pinpoints = config.image_grid_pinpoints
  edge = config.vision_config.image_size
  square = {"height": edge, "width": edge}
  if family == "next":
    return LlavaNextImageProcessorPil(
      size={"shortest_edge": edge},
      crop_size=square,
      image_grid_pinpoints=pinpoints,
    )
  half = [0.5, 0.5, 0.5]
  return LlavaOnevisionImageProcessorPil(
    size=square,
    image_mean=half,
    image_std=half,
    image_grid_pinpoints=pinpoints,
  )


def pixels(family: str, row: list[Image.Image]) -> dict[str, Any]:
  """The processor's tensors; a nested list is one sample of several."""
  given = [row] if family == "onevision" else row
  made = processor(family)(given, return_tensors="pt")
  names = ("pixel_values", "image_sizes", "batch_num_images")
  return {name: made[name] for name in names if name in made}


@dataclasses.dataclass(frozen=True)
class Ours:
  """The same model here."""

  config: LlavaConfig
  graph: Any
  params: params_lib.Params

  @property
  def layout(self) -> layouts.Layout:
    return layouts.of(self.config)

  def images(
    self, rows: list[list[Image.Image]], extent: layouts.Extent | None = None
  ) -> Any:
    """Rows of pictures as a batch [B, ...]."""
    cut = [self.layout.cut(row) for row in rows]
    sizes = [[p.size for p in row] for row in rows]
    room = layouts.cover([layouts.total(self.layout.measure(s)) for s in sizes])
    packed = [self.layout.pack(row, extent or room) for row in cut]
    return jax.tree.map(lambda *x: jnp.stack(x), *packed)

  def prompt(self, pictures: list[Image.Image]) -> list[int]:
    """BEFORE, each picture's placeholders, AFTER."""
    measured = self.layout.measure([p.size for p in pictures])
    runs = [[IMAGE_TOKEN] * extent.tokens for extent in measured]
    return [*BEFORE, *sum(runs, []), *AFTER]


@functools.cache
def ours(family: str) -> Ours:
  """The model by way of its files."""
  import tempfile

  with tempfile.TemporaryDirectory() as folder:
    source = open_checkpoint(save(family, Path(folder)))
    params = source.params(np.float32)
  graph, _ = params_lib.abstract(source.config)
  return Ours(source.config, graph, jax.tree.map(jnp.asarray, params))
