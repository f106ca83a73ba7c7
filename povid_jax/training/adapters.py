"""The adapters that a run starts from: new ones, or those of a PEFT folder."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from povid_jax.errors import UserError
from povid_jax.models import params as params_lib
from povid_jax.models.config import LlavaConfig
from povid_jax.models.params import Params
from povid_jax.training.outline import Outline
from povid_jax.weights import peft_load

# (path, shape) -> jax.sharding.Sharding
Place = Callable[[str, Sequence[int]], Any]


def read(
  config: ConfigDict, described: LlavaConfig, sketch: Outline
) -> peft_load.Adapter | None:
  """The adapter that config.adapter names, or None where it names none.

  Raises:
    UserError: there is no adapter, or it does not fit config.lora; the message
      says which fields to set.
  """
  if not config.adapter:
    return None
  if sketch.lora is None:
    raise UserError(
      f"config.adapter={config.adapter!r} but trainable="
      f"{config.trainable!r} has no adapters; want trainable=lora"
    )
  given = peft_load.read_adapter(config.adapter, described)
  has, wants = given.config, sketch.lora
  covered = {path for path in sketch.shapes if params_lib.is_lora(path)}
  same = (has.rank, has.alpha) == (wants.rank, wants.alpha)
  if not same or set(given.params) != covered:
    raise UserError(
      f"{config.adapter} has other dimensions than config.lora; to continue "
      f"training it, set: --config.lora.rank={has.rank} "
      f"--config.lora.alpha={has.alpha} --config.lora.targets='{has.targets}'"
    )
  if jax.process_index() == 0 and (said := peft_load.skipped(given)):
    print(f"{config.adapter}: {said}", file=sys.stderr)
  return given


def start(
  config: ConfigDict,
  given: peft_load.Adapter | None,
  sketch: Outline,
  base: Params,
  place: Place,
) -> Params:
  """What comes on top of the base: adapters, and a projector tuned with them.

  Args:
    given: from `read`.
    base: parameters of config.init.

  Raises:
    UserError: the adapter comes with another projector, which is not trained
      here and would be lost.
  """
  if sketch.lora is None:
    return {}
  if given is None:
    return _new(sketch.shapes, config.seed, place)
  out = dict(given.params)
  for path, value in given.others.items():
    if path in sketch.trained:
      out[path] = value
    elif not _same(base[path], value):
      raise UserError(
        f"{config.adapter} contains a tuned projector ({path}), which this "
        "run does not train: set --config.projector_lr, or merge the adapter "
        "into its base with `convert from-torch --adapter`"
      )
  return {
    path: _put(value, place(path, value.shape)) for path, value in out.items()
  }


def _new(shapes: Params, seed: int, place: Place) -> Params:
  wanted = {k: v for k, v in shapes.items() if params_lib.is_lora(k)}
  out = {path: place(path, leaf.shape) for path, leaf in wanted.items()}
  init = jax.jit(lambda: params_lib.init_lora(wanted, seed), out_shardings=out)
  return init()


def _put(value: np.ndarray, sharding: Any) -> jax.Array:
  """Copies to each device its part; every host has read the whole array."""
  return jax.make_array_from_callback(
    value.shape, sharding, lambda index: value[index]
  )


def _same(held: jax.Array, value: np.ndarray) -> bool:
  """Whether two arrays are equal in the dtype of the base."""
  other = _put(value.astype(held.dtype), held.sharding)
  return bool(jnp.array_equal(held, other))
