"""All that is known of a run before a weight is loaded: parts, shapes, paths.

Shared by training, which puts arrays in, and `povid_jax.plan`, which uses only
the shapes.
"""

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from povid_jax import objectives
from povid_jax.data.noise import ALPHA_BAR
from povid_jax.errors import UserError
from povid_jax.models import backends, quantised
from povid_jax.models import params as params_lib
from povid_jax.models.config import LlavaConfig, LoraConfig
from povid_jax.models.params import Params
from povid_jax.objectives import Objective
from povid_jax.objectives.logps import Spec
from povid_jax.training import optim

_TRAINABLE = {
  "lora": r"/lora_[ab]$",
  "decoder": r"^decoder/",
  "all": r".*",
}


def get_objective(config: ConfigDict) -> Objective:
  hyper = config.objective.hyper.to_dict()
  return objectives.get(config.objective.name, **hyper)


def trainable_patterns(config: ConfigDict) -> list[str]:
  """Regexes of the trained paths."""
  chosen: str = config.trainable
  patterns = [_TRAINABLE.get(chosen, chosen)]
  if config.projector_lr > 0:
    patterns.append(r"^projector/")
  return patterns


def lora_of(config: ConfigDict) -> LoraConfig | None:
  """The adapters of the run, or None where none is trained."""
  if "lora" not in config.trainable:
    return None
  return LoraConfig(config.lora.rank, config.lora.alpha, config.lora.targets)


def make_spec(config: ConfigDict, objective: Objective) -> Spec:
  scale = None
  if config.noise.site == "pixels":
    kept = float(ALPHA_BAR[config.noise.step])
    scale = (math.sqrt(kept), math.sqrt(1.0 - kept))
  return Spec(
    needs=objective.needs,
    exclude_gold=config.noise.tokens == "argmax_exclude_gold",
    noise_scale=scale,
    head_chunk=config.head_chunk,
    share_prefix=config.share_prefix,
  )


@dataclasses.dataclass(frozen=True)
class Outline:
  """A model without its arrays: all that can be known before loading them.

  Attributes:
    graph: of the network, static settings included.
    lora: adapters, or None.
    patterns: regexes of the trained paths.
    shapes: every parameter, adapters included, by path.
    trained: the paths of the trained ones, in the order of `shapes`.
    copied: trained paths whose initial values are kept as the reference.
    attention: the backend that runs.
  """

  graph: nnx.GraphDef
  lora: LoraConfig | None
  patterns: list[str]
  shapes: Params
  trained: tuple[str, ...]
  copied: tuple[str, ...]
  attention: str


def outline(
  config: ConfigDict, described: LlavaConfig, platform: str | None = None
) -> Outline:
  """What of a network of these dimensions is trained, frozen and copied.

  Args:
    platform: cpu | gpu | tpu that it will run on; None: where JAX runs.

  Raises:
    UserError: nothing matched as trainable, a backend that cannot run, frozen
      kernels in few bits that are to be trained.
  """
  lora, patterns = lora_of(config), trainable_patterns(config)
  storage = quantised.kind_of(config)
  dtype = jnp.dtype(config.dtype)
  attention = backends.choose(
    config.attention, described.decoder, dtype, platform
  )
  graph, shapes = params_lib.abstract(
    described,
    lora,
    dtype=dtype,
    remat=config.remat,
    attention=attention,
    storage=storage,
  )
  matched = optim.match_trainable(shapes, patterns)
  trained = tuple(path for path in shapes if path in matched)
  for path in trained:
    if quantised.takes(path, storage):
      field = "matmul" if storage in quantised.MULTIPLIED else "base"
      raise UserError(
        f"config.{field}={config[field]} stores frozen kernels in few bits, "
        f"but trainable={config.trainable!r} trains {path}: set "
        f"--config.{field}=bf16, or --config.trainable=lora"
      )
  copied = tuple(path for path in trained if not params_lib.is_lora(path))
  return Outline(
    graph=graph,
    lora=lora,
    patterns=patterns,
    shapes=shapes,
    trained=trained,
    copied=copied if _keeps_reference(config) else (),
    attention=attention,
  )


def _keeps_reference(config: ConfigDict) -> bool:
  """Whether steps run the reference model.

  Not where all its log-probs are cached: the cache is filled before step 0,
  while the trained parameters still are the reference's. Those that come with
  a given adapter never are.
  """
  objective = get_objective(config)
  if not objective.needs.reference:
    return False
  return (
    config.reference == "online"
    or objective.needs.noise == "policy"
    or bool(config.adapter)
  )
