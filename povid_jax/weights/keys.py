"""Key tables: which tensor of a PyTorch checkpoint is which parameter here.

The names of a tensor in all layouts differ only in the prefix of the part it
belongs to (docs/design.md, "Names of parameters"), so there is one table of
parameters and one list of prefixes.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from povid_jax.errors import UserError
from povid_jax.models import sizes as sizes_lib
from povid_jax.models.config import (
  DecoderConfig,
  LlavaConfig,
  QwenVisionConfig,
  VisionConfig,
)

# Longest first where one is the beginning of another.
_PREFIXES = (
  # Qwen2.5-VL: module names of transformers 4.52 and later, then on disk
  ("model.visual.merger.", "projector"),
  ("visual.merger.", "projector"),
  ("model.visual.", "vision"),
  ("visual.", "vision"),
  # llava-hf on disk (transformers 4.36 to 4.51), and what newer ones write
  ("language_model.model.", "decoder"),
  ("language_model.lm_head.", "head"),
  ("multi_modal_projector.", "projector"),
  ("vision_tower.vision_model.", "vision"),
  ("vision_tower.", "vision"),
  # module names of transformers 4.52 and later
  ("model.language_model.", "decoder"),
  ("model.multi_modal_projector.", "projector"),
  # the original layout; 5.x drops `vision_model.`
  ("model.mm_projector.", "projector"),
  ("mm_projector.", "projector"),
  ("model.vision_tower.vision_tower.vision_model.", "vision"),
  ("model.vision_tower.vision_tower.", "vision"),
  ("model.vision_tower.vision_model.", "vision"),
  ("model.vision_tower.", "vision"),
  ("model.image_newline", "newline"),
  ("image_newline", "newline"),
  ("language_model.", "decoder"),
  ("lm_head.", "head"),
  ("model.", "decoder"),
)
_CLIP_PREFIXES = (("vision_model.", "vision"), ("", "vision"))
# In a folder of a whole CLIP the text half is ignored.
_CLIP_IGNORED = (
  "text_model.",
  "text_projection.",
  "visual_projection.",
  "logit_scale",
)
_BUFFERS = ("rotary_emb.inv_freq", "position_ids")
_PROJECTOR_NAMES = {
  "0.weight": "linear_1.weight",
  "0.bias": "linear_1.bias",
  "2.weight": "linear_2.weight",
  "2.bias": "linear_2.bias",
  "weight": "linear_1.weight",  # mm_projector_type "linear"
  "bias": "linear_1.bias",
}
# ours -> Qwen2.5-VL's, whose merger has its layers one folder deeper
MERGER_NAMES = {
  ours: f"mlp.{name}" for name, ours in _PROJECTOR_NAMES.items() if "." in name
}
_PROJECTOR_NAMES |= {theirs: ours for ours, theirs in MERGER_NAMES.items()}


@dataclasses.dataclass(frozen=True)
class Entry:
  """One parameter of ours and the torch tensors it is made of.

  Attributes:
    path: our flat parameter path.
    part: "vision", "projector", "newline", "decoder" or "head".
    name: name of the tensor inside its part; "{}" stands for the layer.
    shape: shape of one torch tensor.
    layers: number of layers stacked on our first axis; 0 for no such axis.
  """

  path: str
  part: str
  name: str
  shape: tuple[int, ...]
  layers: int = 0

  @property
  def axes(self) -> tuple[int, ...]:
    """Permutation that takes a torch tensor to our layout."""
    if self.path.endswith("patch_embedding"):
      # [out, in, (frames,) h, w] -> [(frames,) h, w, in, out]
      return (*range(2, len(self.shape)), 1, 0)
    return (
      (1, 0) if self.path.endswith("/kernel") else tuple(range(len(self.shape)))
    )

  @property
  def our_shape(self) -> tuple[int, ...]:
    one = tuple(self.shape[axis] for axis in self.axes)
    return (self.layers, *one) if self.layers else one

  def names(self) -> list[tuple[str, int | None]]:
    """The torch names inside the part, each with its layer (or None)."""
    if not self.layers:
      return [(self.name, None)]
    return [(self.name.format(i), i) for i in range(self.layers)]


def _linear(
  path: str, part: str, name: str, out: int, into: int, bias: bool, layers: int
) -> list[Entry]:
  kernel = Entry(f"{path}/kernel", part, f"{name}.weight", (out, into), layers)
  if not bias:
    return [kernel]
  return [kernel, Entry(f"{path}/bias", part, f"{name}.bias", (out,), layers)]


def _stacked(
  linear: sizes_lib.Sizes, part: str, layer: str, layers: int
) -> list[Entry]:
  """A linear layer of every layer of a part, whose torch prefix is `layer`."""
  path = f"{part}/layers/{linear.name}"
  name = f"{layer}.{linear.name.replace('/', '.')}"
  _, into, out, bias = linear
  return _linear(path, part, name, out, into, bias, layers)


def _layer_norm(path: str, name: str, size: int, layers: int) -> list[Entry]:
  return [
    Entry(f"{path}/scale", "vision", f"{name}.weight", (size,), layers),
    Entry(f"{path}/bias", "vision", f"{name}.bias", (size,), layers),
  ]


def qwen_vision_entries(config: QwenVisionConfig) -> list[Entry]:
  """The tower of Qwen2.5-VL."""
  d, n = config.hidden_size, config.num_layers
  p = config.patch_size
  entries = [
    Entry(
      "vision/patch_embedding",
      "vision",
      "patch_embed.proj.weight",
      (d, 3, config.frames, p, p),
    )
  ]
  for linear in sizes_lib.qwen_vision_linears(config):
    entries += _stacked(linear, "vision", "blocks.{}", n)
  for norm in ("norm1", "norm2"):
    path, name = f"vision/layers/{norm}/scale", f"blocks.{{}}.{norm}.weight"
    entries.append(Entry(path, "vision", name, (d,), n))
  return entries


def merger_entries(config: LlavaConfig) -> list[Entry]:
  """The merger of Qwen2.5-VL, in the projector's place."""
  tower, out = config.vision, config.decoder.hidden_size
  assert isinstance(tower, QwenVisionConfig)
  d, wide = tower.hidden_size, tower.hidden_size * tower.merged
  entries = [Entry("projector/norm/scale", "projector", "ln_q.weight", (d,))]
  for name, size in (("linear_1", wide), ("linear_2", out)):
    path = f"projector/{name}"
    entries += _linear(path, "projector", name, size, wide, True, 0)
  return entries


def vision_entries(config: VisionConfig) -> list[Entry]:
  """The tower, with the layers behind the feature layer."""
  d, n = config.hidden_size, config.num_layers
  p, e = config.patch_size, "vision/embeddings"
  one = lambda path, name, *shape: Entry(
    f"{e}/{path}", "vision", f"embeddings.{name}", shape
  )
  entries = []
  if config.class_token:
    entries.append(one("class_embedding", "class_embedding", d))
  entries.append(one("patch_embedding", "patch_embedding.weight", d, 3, p, p))
  if config.patch_bias:
    entries.append(one("patch_bias", "patch_embedding.bias", d))
  positions = "position_embedding.weight"
  entries.append(one("position_embedding", positions, config.num_tokens, d))
  if config.pre_norm:
    # the missing "e" is in every published checkpoint
    entries += _layer_norm("vision/pre_layernorm", "pre_layrnorm", d, 0)
  entries += _layer_norm("vision/post_layernorm", "post_layernorm", d, 0)
  ours, theirs = "vision/layers", "encoder.layers.{}"
  for norm in ("layer_norm1", "layer_norm2"):
    entries += _layer_norm(f"{ours}/{norm}", f"{theirs}.{norm}", d, n)
  for linear in sizes_lib.vit_linears(config):
    entries += _stacked(linear, "vision", theirs, n)
  return entries


def projector_entries(config: LlavaConfig) -> list[Entry]:
  d = config.decoder.hidden_size
  sizes = [("linear_1", config.vision.hidden_size), ("linear_2", d)]
  if config.projector == "linear":
    sizes = sizes[:1]
  entries = []
  for name, into in sizes:
    entries += _linear(f"projector/{name}", "projector", name, d, into, True, 0)
  return entries


def newline_entries(config: LlavaConfig) -> list[Entry]:
  """The vector that ends a row of image tokens; the prefix is all its name."""
  if not config.layout.newline:
    return []
  shape = (config.decoder.hidden_size,)
  return [Entry("image_newline", "newline", "", shape)]


def decoder_linears(config: DecoderConfig) -> list[Entry]:
  """The kernels (and biases) of the seven linear layers that take LoRA."""
  entries = []
  for linear in sizes_lib.decoder_linears(config):
    entries += _stacked(linear, "decoder", "layers.{}", config.num_layers)
  return entries


def decoder_entries(config: DecoderConfig) -> list[Entry]:
  d, v, n = config.hidden_size, config.vocab_size, config.num_layers
  entries = [
    Entry(
      "decoder/embed_tokens/embedding", "decoder", "embed_tokens.weight", (v, d)
    ),
    Entry("decoder/norm/scale", "decoder", "norm.weight", (d,)),
    *decoder_linears(config),
  ]
  for norm in ("input_layernorm", "post_attention_layernorm"):
    path, name = f"decoder/layers/{norm}/scale", f"layers.{{}}.{norm}.weight"
    entries.append(Entry(path, "decoder", name, (d,), n))
  if not config.tie_embeddings:
    entries.append(Entry("decoder/lm_head/kernel", "head", "weight", (v, d)))
  return entries


# tower and projector of a family, by the dimensions of its tower
_PARTS: dict[type, tuple[Callable[..., list[Entry]], ...]] = {
  VisionConfig: (vision_entries, projector_entries),
  QwenVisionConfig: (qwen_vision_entries, merger_entries),
}


def entries(config: LlavaConfig) -> list[Entry]:
  """Every parameter of a model, in the order of its parts."""
  tower, projector = _PARTS[type(config.vision)]
  return [
    *tower(config.vision),
    *projector(config),
    *newline_entries(config),
    *decoder_entries(config.decoder),
  ]


def split(key: str, clip: bool = False) -> tuple[str, str] | None:
  """(part, name inside the part) of a torch key in any layout, or None.

  Args:
    clip: the key comes from a folder that holds a CLIP model alone.
  """
  for prefix, part in _CLIP_PREFIXES if clip else _PREFIXES:
    if key.startswith(prefix):
      name = key[len(prefix) :]
      return part, _PROJECTOR_NAMES.get(name, name) if (
        part == "projector"
      ) else name
  return None


def ignored(key: str, clip: bool = False) -> bool:
  """True for buffers, and for the text half of a CLIP folder."""
  return key.endswith(_BUFFERS) or (clip and key.startswith(_CLIP_IGNORED))


def shorten(keys: Iterable[str], most: int = 20) -> str:
  """The keys in one line; beyond `most`, how many more there are."""
  keys = sorted(keys)
  rest = f" and {len(keys) - most} more" if len(keys) > most else ""
  return ", ".join(keys[:most]) + rest


def match(
  keys: Mapping[str, object] | Iterable[str],
  wanted: list[Entry],
  where: str,
  *,
  clip: bool = False,
  tied: bool = False,
) -> dict[tuple[str, int | None], str]:
  """Finds the torch key of every (path, layer); strict in both directions.

  Args:
    where: the folder, for the error.
    tied: the head is the embedding; a copy of it in the file is passed over.

  Raises:
    UserError: lists the keys that are missing, unexpected or given twice.
  """
  want = {
    (e.part, name): (e.path, layer) for e in wanted for name, layer in e.names()
  }
  found: dict[tuple[str, int | None], str] = {}
  unexpected, twice = [], []
  for key in keys:
    spot = split(key, clip)
    if ignored(key, clip) or (tied and spot == ("head", "weight")):
      continue
    target = want.get(spot) if spot else None
    if target is None:
      unexpected.append(key)
    elif target in found:
      twice.append(f"{found[target]} = {key}")
    else:
      found[target] = key
  missing = [
    f"{p}:{n}" for (p, n), target in want.items() if target not in found
  ]
  complaints = [
    f"{len(group)} {word} ({shorten(group)})"
    for word, group in (
      ("missing", missing),
      ("unexpected", unexpected),
      ("given twice", twice),
    )
    if group
  ]
  if complaints:
    raise UserError(f"{where}: tensors " + "; ".join(complaints))
  return found
