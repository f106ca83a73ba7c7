"""Random weights of any size, drawn while they are written.

A small model is drawn whole. Of a large one each layer is drawn alone, from a
seed of its own: host memory stays at a few layers.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from povid_jax.checkpoints.stream import Pieces
from povid_jax.models import params as params_lib
from povid_jax.models.config import LlavaConfig, VisionConfig
from povid_jax.models.llava import Llava

_SMALL = 10**9  # bytes in float32


def draw(config: LlavaConfig, seed: int, dtype: Any) -> dict[str, Any]:
  """Parameter path -> its array, or `Pieces` that are drawn when written."""
  dtype = np.dtype(dtype)
  _, shapes = params_lib.abstract(config)
  if sum(4 * shape.size for shape in shapes.values()) <= _SMALL:
    model = params_lib.build(config, seed=seed)
    return {
      path: np.asarray(jax.device_get(value)).astype(dtype)
      for path, value in params_lib.flatten(model).items()
    }
  return {
    path: Pieces(
      shape.shape,
      dtype,
      _rows(config, path, shape.shape, seed, dtype),
      stacked=_is_stacked(path),
    )
    for path, shape in shapes.items()
  }


def _is_stacked(path: str) -> bool:
  return "/layers/" in path


def _rows(
  config: LlavaConfig,
  path: str,
  shape: tuple[int, ...],
  seed: int,
  dtype: np.dtype,
) -> Iterator[np.ndarray]:
  """The layers of one parameter, or the whole of one that has none."""
  single = _of_one_layer(config)

  # of the model that is built the compiler keeps this parameter only
  @jax.jit
  def one(key: jax.Array) -> jax.Array:
    return params_lib.flatten(Llava(single, nnx.Rngs(key)))[path]

  key = jax.random.key(seed)
  if not _is_stacked(path):
    yield np.asarray(jax.device_get(one(key))).astype(dtype)
    return
  for layer in range(shape[0]):
    drawn = one(jax.random.fold_in(key, layer))
    yield np.asarray(jax.device_get(drawn))[0].astype(dtype)


def _of_one_layer(config: LlavaConfig) -> LlavaConfig:
  changes: dict[str, Any] = {"num_layers": 1}
  if isinstance(config.vision, VisionConfig):
    changes["feature_layer"] = -1
  return dataclasses.replace(
    config,
    vision=dataclasses.replace(config.vision, **changes),
    decoder=dataclasses.replace(config.decoder, num_layers=1),
  )
