"""Dimensions of the networks, as frozen dataclasses."""

import dataclasses
from typing import Any, ClassVar, Self

from povid_jax.errors import UserError

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_tanh", "silu")
PROJECTORS = ("mlp2x_gelu", "linear")
# the placeholder in the ids of a prefix, one for each image token
IMAGE_TOKEN = -200
# Kinds of layout: how pictures become arrays. `data.layout._KINDS` and
# `models.pictures.ENCODERS` are tables with these keys, and need one more for a
# further kind.
LAYOUTS = ("square", "anyres", "native")

# CLIPImageProcessor's constants, for pixels scaled to 0..1
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def _check_type(name: str, value: Any, default: Any) -> None:
  """A field's value must be of the kind of its default."""
  if default is None:
    return  # one that may be absent; checked where it is used
  kinds: dict[type, tuple] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    tuple: ((list, tuple), "a list"),
  }
  types, wanted = kinds.get(type(default), ((dict,), "an object"))
  if type(value) not in types:
    raise UserError(f"{name} is {value!r:.40}, want {wanted}")


def _frozen(value: Any) -> Any:
  """JSON's lists as tuples, so that a config can be a static argument."""
  return tuple(map(_frozen, value)) if isinstance(value, list) else value


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
    nested = {
      "vision": _tower(values.get("vision")),
      "decoder": DecoderConfig,
      "layout": LayoutConfig,
    }
    built = {}
    for name, value in values.items():
      _check_type(f"{cls.__name__}.{name}", value, fields[name].default)
      if name in nested:
        value = nested[name].from_dict(value)
      built[name] = _frozen(value)
    return cls(**built)

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)  # type: ignore[call-overload]


@dataclasses.dataclass(frozen=True)
class VisionConfig(_Dict):
  """A vision transformer, CLIP's or SigLIP's (CLIP ViT-L/14-336 by default)."""

  hidden_size: int = 1024
  intermediate_size: int = 4096
  num_layers: int = 24
  num_heads: int = 16
  image_size: int = 336  # pixels, square
  patch_size: int = 14  # pixels
  feature_layer: int = -2  # index into [embeddings, layer 1, ..., layer n]
  layer_norm_eps: float = 1e-5
  activation: str = "quick_gelu"
  class_token: bool = True  # one more token in front, dropped at the end
  pre_norm: bool = True  # a norm between embeddings and layers
  patch_bias: bool = False
  mean: tuple[float, ...] = CLIP_MEAN  # of the pixels, scaled to 0..1
  std: tuple[float, ...] = CLIP_STD
  layouts: ClassVar = ("square", "anyres")

  def __post_init__(self) -> None:
    if self.activation not in ACTIVATIONS:
      raise UserError(
        f"vision.activation: want one of {ACTIVATIONS}, got {self.activation!r}"
      )

  @property
  def side(self) -> int:
    """Patches along an edge; pixels that fill no patch are cut off."""
    return self.image_size // self.patch_size

  @property
  def num_patches(self) -> int:
    return self.side**2

  @property
  def num_tokens(self) -> int:
    """Tokens inside the tower."""
    return self.num_patches + self.class_token

  @property
  def num_used_layers(self) -> int:
    """Layers that run: the rest is kept for export only."""
    index = self.feature_layer
    return index if index >= 0 else self.num_layers + 1 + index


@dataclasses.dataclass(frozen=True)
class QwenVisionConfig(_Dict):
  """The vision transformer of Qwen2.5-VL, and its merger's square.

  Source: vision_config of Qwen/Qwen2.5-VL-7B-Instruct (3B has the same).
  """

  kind: str = "qwen2_5_vl"  # what tells this tower from the others
  hidden_size: int = 1280
  intermediate_size: int = 3420
  num_layers: int = 32
  num_heads: int = 16
  patch_size: int = 14  # pixels
  merge_size: int = 2  # edge of the square of patches that is one token
  window_size: int = 112  # pixels, edge of an attention window
  full_layers: tuple[int, ...] = (7, 15, 23, 31)  # the rest look at windows
  frames: int = 2  # times that a still picture is repeated
  mean: tuple[float, ...] = CLIP_MEAN  # of the pixels, scaled to 0..1
  std: tuple[float, ...] = CLIP_STD
  layouts: ClassVar = ("native",)

  def __post_init__(self) -> None:
    edge = self.patch_size * self.merge_size
    if self.window_size % edge:
      raise UserError(
        f"vision.window_size={self.window_size}: want a multiple of {edge}, "
        "the pixels of one image token"
      )
    if self.hidden_size % (4 * self.num_heads):
      raise UserError(
        f"vision.hidden_size={self.hidden_size}: want a multiple of 4 * "
        f"{self.num_heads} heads, for the angles of rows and columns"
      )

  @property
  def merged(self) -> int:
    """Patches of one image token."""
    return self.merge_size**2

  @property
  def window_patches(self) -> int:
    """The most patches of one attention window."""
    return (self.window_size // self.patch_size) ** 2


Tower = VisionConfig | QwenVisionConfig
# by `kind`, which a tower of CLIP's family does not have
_TOWERS: dict[Any, type[Tower]] = {
  None: VisionConfig,
  QwenVisionConfig.kind: QwenVisionConfig,
}


def _tower(values: Any) -> type[Tower]:
  """Whose fields these are."""
  kind = values.get("kind") if isinstance(values, dict) else None
  if kind not in tuple(_TOWERS):  # a tuple: it may be a list
    known = [name for name in _TOWERS if name]
    raise UserError(f"vision.kind is {kind!r:.40}, want one of {known}")
  return _TOWERS[kind]


class _Scaling(dict):
  """A dict that is never changed, so that a config can be a static argument."""

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
  # how many of the angles turn by time, row and column (M-RoPE of Qwen2-VL);
  # () where a token has one position
  mrope_sections: tuple[int, ...] = ()

  def __post_init__(self) -> None:
    sections = self.mrope_sections
    if sections and (len(sections), sum(sections)) != (3, self.head_dim // 2):
      raise UserError(
        f"decoder.mrope_sections={sections}: want three numbers that sum to "
        f"half of head_dim, {self.head_dim // 2}"
      )
    if self.rope_scaling is not None:
      object.__setattr__(self, "rope_scaling", _Scaling(self.rope_scaling))

  @property
  def context_length(self) -> int:
    """Tokens of prefix and branch that the positions are good for.

    Linear scaling leaves `max_position_embeddings` at what it was before (the
    16k Vicuna says 4096 and a factor of 4); llama3 scaling does not.
    """
    scaling = self.rope_scaling or {}
    factor = scaling["factor"] if scaling.get("type") == "linear" else 1
    return int(self.max_positions * factor)


@dataclasses.dataclass(frozen=True)
class LayoutConfig(_Dict):
  """How a picture becomes tiles and tokens; see data/layout.py.

  `square`: one picture, one square of the tower's size. `anyres`: the picture
  squashed to a square, then cut into tiles (LLaVA-NeXT, LLaVA-OneVision).
  `native`: patches of the picture at about its own size (Qwen2.5-VL).
  """

  kind: str = "square"
  mode: str = "pad"  # of a square: pad | resize
  # canvases (height, width) in pixels that tiles may fill; the first of two
  # that fit as well is taken
  pinpoints: tuple[tuple[int, int], ...] = ()
  # features of more tiles than this are shrunk to so many (anyres_max_N); 0:
  # never
  max_tiles: int = 0
  # several pictures in one prompt: each is cut into tiles, or each is a square
  several: str = "tiles"
  # original: pinpoints are (width, height), which decides ties, and sizes are
  # cut off and not rounded, as LLaVA's own code has it; else as transformers
  reader: str = "transformers"
  # of a native picture; smaller ones are enlarged, larger ones shrunk
  min_pixels: int = 3_136
  max_pixels: int = 12_845_056

  def __post_init__(self) -> None:
    for name, valid in (
      ("kind", LAYOUTS),
      ("mode", ("pad", "resize")),
      ("several", ("tiles", "square")),
      ("reader", ("transformers", "original")),
    ):
      if (value := getattr(self, name)) not in valid:
        raise UserError(f"layout.{name}: want one of {valid}, got {value!r}")

  @property
  def newline(self) -> bool:
    """Whether the model has a learnt vector that ends a row of tokens."""
    return self.kind == "anyres"


@dataclasses.dataclass(frozen=True)
class LlavaConfig(_Dict):
  """Vision tower, projector, decoder, and the layout of pictures."""

  vision: Tower = VisionConfig()
  decoder: DecoderConfig = DecoderConfig()
  projector: str = "mlp2x_gelu"
  layout: LayoutConfig = LayoutConfig()

  def __post_init__(self) -> None:
    self._check_layout()
    if self.projector not in PROJECTORS:
      raise UserError(
        f"projector: want one of {PROJECTORS}, got {self.projector!r}"
      )

  def _check_layout(self) -> None:
    if self.layout.kind not in self.vision.layouts:
      raise UserError(
        f"layout.kind={self.layout.kind!r} does not fit the tower, which "
        f"takes pictures as {' or '.join(self.vision.layouts)}"
      )
    if self.layout.kind != "anyres":
      return
    tile, given = self.square_tower.image_size, self.layout.pinpoints
    for pair in given or ((0, 0),):
      numbers = isinstance(pair, tuple) and all(type(n) is int for n in pair)
      if (
        not numbers
        or len(pair) != 2
        or min(pair) < 1
        or pair[0] % tile
        or (pair[1] % tile)
      ):
        raise UserError(
          f"layout.pinpoints: {pair if given else given!r}, want pairs of "
          f"multiples of the tower's {tile} pixels"
        )

  @property
  def square_tower(self) -> VisionConfig:
    """The tower, for families whose pictures become squares.

    Raises:
      UserError: in this family pictures keep their size.
    """
    if not isinstance(self.vision, VisionConfig):
      raise UserError(
        "this command needs a model that sees each picture as a square "
        "(LLaVA-1.5); this one sees pictures at their own size"
      )
    return self.vision

  @property
  def image_tokens(self) -> int:
    """Tokens of one square picture, or of one tile."""
    return self.square_tower.num_patches


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
