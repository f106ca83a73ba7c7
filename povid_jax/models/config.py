"""Dimensions of the networks, as frozen dataclasses."""

import dataclasses
from typing import Any, Self

from povid_jax.errors import UserError

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_tanh", "silu")
PROJECTORS = ("mlp2x_gelu", "linear")


def _check_type(name: str, value: Any, default: Any) -> None:
  """A field's value must be of the kind of its default."""
  if default is None:
    return  # one that may be absent; checked where it is used
  kinds: dict[type, tuple] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
  }
  types, wanted = kinds.get(type(default), ((dict,), "an object"))
  if type(value) not in types:
    raise UserError(f"{name} is {value!r:.40}, want {wanted}")


class _Dict:
  """`to_dict` / `from_dict` with errors that name the field."""

  @classmethod
  def from_dict(cls, values: dict[str, Any]) -> Self:
    """Raises UserError for a field that this configuration does not have."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
      raise UserError(
        f"{cls.__name__} has no field {unknown[0]!r}; it has {sorted(fields)}"
      )
    nested = {"vision": VisionConfig, "decoder": DecoderConfig}
    built = {}
    for name, value in values.items():
      _check_type(f"{cls.__name__}.{name}", value, fields[name].default)
      built[name] = nested[name].from_dict(value) if name in nested else value
    return cls(**built)

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)  # type: ignore[call-overload]


@dataclasses.dataclass(frozen=True)
class VisionConfig(_Dict):
  """A CLIP vision transformer (facts: CLIP ViT-L/14-336 by default)."""

  hidden_size: int = 1024
  intermediate_size: int = 4096
  num_layers: int = 24
  num_heads: int = 16
  image_size: int = 336  # pixels, square
  patch_size: int = 14  # pixels
  feature_layer: int = -2  # index into [embeddings, layer 1, ..., layer n]
  layer_norm_eps: float = 1e-5
  activation: str = "quick_gelu"

  @property
  def num_patches(self) -> int:
    return (self.image_size // self.patch_size) ** 2

  @property
  def num_used_layers(self) -> int:
    """Layers that run: the rest is kept for export only."""
    index = self.feature_layer
    return index if index >= 0 else self.num_layers + 1 + index


class _Scaling(dict):
  """A dict that nobody changes, so that a config can be a static argument."""

  def __hash__(self) -> int:  # type: ignore[override]
    return hash(tuple(sorted(self.items())))


@dataclasses.dataclass(frozen=True)
class DecoderConfig(_Dict):
  """A Llama-family decoder."""

  vocab_size: int = 32000
  hidden_size: int = 4096
  intermediate_size: int = 11008
  num_layers: int = 32
  num_heads: int = 32
  num_kv_heads: int = 32
  head_dim: int = 128
  rope_theta: float = 10000.0
  # None, {"type": "linear", "factor"} or {"type": "llama3", "factor",
  # "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
  rope_scaling: dict[str, Any] | None = None
  max_positions: int = 4096
  rms_norm_eps: float = 1e-5
  attention_bias: bool = False  # q, k, v (Qwen2)
  output_bias: bool = False  # o (Llama with attention_bias)
  tie_embeddings: bool = False
  sliding_window: int | None = None  # keys a query may look back to, or None

  def __post_init__(self) -> None:
    if self.rope_scaling is not None:
      object.__setattr__(self, "rope_scaling", _Scaling(self.rope_scaling))


@dataclasses.dataclass(frozen=True)
class LlavaConfig(_Dict):
  """Vision tower, projector and decoder."""

  vision: VisionConfig = VisionConfig()
  decoder: DecoderConfig = DecoderConfig()
  projector: str = "mlp2x_gelu"

  def __post_init__(self) -> None:
    if self.projector not in PROJECTORS:
      raise UserError(
        f"projector: want one of {PROJECTORS}, got {self.projector!r}"
      )
    if self.vision.activation not in ACTIVATIONS:
      raise UserError(
        f"vision.activation: want one of {ACTIVATIONS}, "
        f"got {self.vision.activation!r}"
      )

  @property
  def image_tokens(self) -> int:
    """Tokens that one image takes in the prefix."""
    return self.vision.num_patches


@dataclasses.dataclass(frozen=True)
class LoraConfig(_Dict):
  """Low-rank adapters on the linear layers whose path matches `targets`."""

  rank: int = 128
  alpha: float = 256.0
  # searched in the parameter path of the linear layer,
  # "decoder/layers/self_attn/q_proj" for example
  targets: str = (
    r"decoder/layers/(self_attn/[qkvo]_proj|mlp/(gate|up|down)_proj)$"
  )

  @property
  def scale(self) -> float:
    return self.alpha / self.rank
