"""The vision tower of a checkpoint to our dimensions: CLIP's or SigLIP's."""

import dataclasses
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.models.config import VisionConfig
from povid_jax.weights.fields import Fields, integer, number, section, want
from povid_jax.weights.safetensors_file import Tensor
from povid_jax.weights.shards import read_json

# our name -> that of transformers
NAMES = {
  "hidden_size": "hidden_size",
  "intermediate_size": "intermediate_size",
  "num_layers": "num_hidden_layers",
  "num_heads": "num_attention_heads",
  "image_size": "image_size",
  "patch_size": "patch_size",
  "activation": "hidden_act",
  "layer_norm_eps": "layer_norm_eps",
}
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}


@dataclasses.dataclass(frozen=True)
class Tower:
  """A kind of tower.

  Attributes:
    defaults: what transformers assumes where config.json is silent; checked
      by a test.
    flags: fields of VisionConfig that are not in config.json.
    strategy: `vision_feature_select_strategy` that keeps the patches alone.
  """

  defaults: dict[str, Any]
  flags: dict[str, Any]
  strategy: str


_HALF = (0.5, 0.5, 0.5)
TOWERS = {
  "clip_vision_model": Tower(
    defaults=dict(
      hidden_size=768,
      intermediate_size=3072,
      num_hidden_layers=12,
      num_attention_heads=12,
      image_size=224,
      patch_size=32,
      hidden_act="quick_gelu",
      layer_norm_eps=1e-5,
    ),
    flags={},
    strategy="default",
  ),
  "siglip_vision_model": Tower(
    defaults=dict(
      hidden_size=768,
      intermediate_size=3072,
      num_hidden_layers=12,
      num_attention_heads=12,
      image_size=224,
      patch_size=16,
      hidden_act="gelu_pytorch_tanh",
      layer_norm_eps=1e-6,
    ),
    flags=dict(
      class_token=False,
      pre_norm=False,
      patch_bias=True,
      mean=_HALF,
      std=_HALF,
    ),
    strategy="full",
  ),
}


def kind_of(config: VisionConfig) -> str:
  """model_type of a tower of ours."""
  kind = "clip_vision_model" if config.class_token else "siglip_vision_model"
  flags = VisionConfig(**TOWERS[kind].flags)
  for name in ("class_token", "pre_norm", "patch_bias"):
    if getattr(config, name) != getattr(flags, name):
      raise UserError(
        f"no tower of transformers has vision.{name}={getattr(config, name)} "
        f"and class_token={config.class_token}"
      )
  return kind


def most(field: str) -> int:
  """A larger number is a mistake, and its layer names would fill the memory."""
  return 10_000 if field == "num_hidden_layers" else 10**9


def _feature_layer(value: Any, layers: int, where: Path) -> int:
  """An index into [embeddings, layer 1, ..., layer n], as transformers has."""
  whole = isinstance(value, int) and not isinstance(value, bool)
  if not whole or not -layers - 1 <= value <= layers:
    raise UserError(
      f"{where}: the vision feature layer is {value!r:.80}, want one integer "
      f"from {-layers - 1} to {layers}"
    )
  return value


def vision_from(
  values: Fields,
  feature_layer: Any,
  where: Path,
  said_in: Path | None = None,
  kind: str = "clip_vision_model",
) -> VisionConfig:
  """A tower's dimensions from the fields of its config.

  Args:
    values: the fields.
    feature_layer: index of the layer whose output is used.
    where: the file of the fields, for errors.
    said_in: the file of the feature layer, if that is another one.
    kind: a name in TOWERS.
  """
  tower = TOWERS[kind]
  c = tower.defaults | {k: v for k, v in values.items() if v is not None}
  want(c.get("num_channels", 3), (3,), "num_channels", where)
  sizes: dict[str, Any] = {
    ours: integer(c, theirs, where, most(theirs))
    for ours, theirs in NAMES.items()
    if isinstance(tower.defaults[theirs], int)
  }
  if sizes["hidden_size"] % sizes["num_heads"]:
    raise UserError(
      f"{where}: hidden_size {sizes['hidden_size']}, want a multiple of "
      f"{sizes['num_heads']} num_attention_heads"
    )
  act = str(c["hidden_act"])
  return VisionConfig(
    **sizes,
    **tower.flags,
    activation=ACTIVATIONS.get(act, act),
    layer_norm_eps=number(c, "layer_norm_eps", where),
    feature_layer=_feature_layer(
      feature_layer, sizes["num_layers"], said_in or where
    ),
  )


def _of_folder(
  folder: Path, kind: str, feature_layer: Any, said_in: Path
) -> VisionConfig:
  """From a folder that holds a CLIP or a SigLIP alone."""
  where = folder / "config.json"
  c = read_json(where)
  inner = section(c, "vision_config", where)
  named = (inner or c).get("model_type") or kind
  same = (kind, kind.removesuffix("_vision_model"))
  want(named, same, "the tower's model_type", where)
  return vision_from(inner or c, feature_layer, where, said_in, kind)


@dataclasses.dataclass(frozen=True)
class _Shapes:
  """The dimensions that follow from the shapes of a tower's tensors."""

  kind: str
  hidden: int
  wide: int
  layers: int
  image_size: int
  patch: int


def _shapes_of(tensors: dict[str, Tensor], where: Path) -> _Shapes:
  ends = {key: t.shape for key, t in tensors.items() if "vision_tower" in key}
  shape = lambda end: next(s for k, s in ends.items() if k.endswith(end))
  try:
    hidden, _, patch, _ = shape("patch_embedding.weight")
    positions, _ = shape("position_embedding.weight")
    wide, _ = shape("layers.0.mlp.fc1.weight")
  except (StopIteration, ValueError) as error:
    raise UserError(
      f"{where}: it contains no vision tower; give a folder with CLIP's "
      "config.json and weights with --vision-tower"
    ) from error
  clip = any(key.endswith("class_embedding") for key in ends)
  patches = positions - clip
  side = round(patches**0.5)
  if side * side != patches:
    raise UserError(
      f"{where}: a tower of {positions} positions is not a square of patches "
      "and a class token"
    )
  kind = "clip_vision_model" if clip else "siglip_vision_model"
  layers = sum(key.endswith(".mlp.fc1.weight") for key in ends)
  return _Shapes(kind, hidden, wide, layers, side * patch, patch)


# of towers whose width is no multiple of 64 a head: SigLIP so400m's
_HEADS = {1152: 16}
_SO400M_PIXELS = 384  # of which 27 patches of 14 use 378


def _from_shapes(
  shapes: _Shapes, feature_layer: Any, where: Path
) -> VisionConfig:
  """The number of heads of published towers, which does not follow from
  shapes.
  """
  heads = _HEADS.get(shapes.hidden, shapes.hidden // 64)
  if shapes.hidden % 64 or not heads:
    raise UserError(
      f"{where}: the number of heads of a tower of width {shapes.hidden} "
      "cannot be computed from its weights; give --vision-tower, a folder "
      "with config.json"
    )
  size = shapes.image_size
  if shapes.hidden == 1152 and size == 378:
    size = _SO400M_PIXELS
  fields = dict(
    hidden_size=shapes.hidden,
    intermediate_size=shapes.wide,
    num_hidden_layers=shapes.layers,
    num_attention_heads=heads,
    image_size=size,
    patch_size=shapes.patch,
  )
  config = where / "config.json"
  return vision_from(fields, feature_layer, config, kind=shapes.kind)


def of_original(
  folder: Path, config: Fields, tensors: dict[str, Tensor], tower: Path | None
) -> VisionConfig:
  """The tower of a folder in the original layout.

  Args:
    folder: the checkpoint.
    config: fields of its config.json.
    tensors: the folder's tensors, which may hold the tower.
    tower: a CLIP or SigLIP folder, or None where the tower is inside.
  """
  where = folder / "config.json"
  layer = config.get("mm_vision_select_layer", -2)
  inside = any("vision_tower" in key for key in tensors)
  siglip = "siglip" in str(config.get("mm_vision_tower", "")).lower()
  kind = "siglip_vision_model" if siglip else "clip_vision_model"
  shapes = None
  if inside or tower is None:
    shapes = _shapes_of(tensors, folder)
    kind = shapes.kind
  if kind == "siglip_vision_model":
    # LLaVA's code deletes SigLIP's last layer and takes what then is the last
    # one's output, whatever mm_vision_select_layer says (siglip_encoder.py)
    layer = -1
  if tower is None:
    assert shapes is not None
    return _from_shapes(shapes, layer, folder)
  found = _of_folder(tower, kind, layer, where)
  if kind == "siglip_vision_model" and shapes is not None:
    found = dataclasses.replace(found, num_layers=shapes.layers)
  return found
