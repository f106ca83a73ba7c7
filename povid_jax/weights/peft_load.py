"""PEFT adapters in: a LoRA folder as a tree that can be trained on."""

import dataclasses
import re
from pathlib import Path

import numpy as np

from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig, LoraConfig
from povid_jax.weights import keys
from povid_jax.weights.fields import integer, number
from povid_jax.weights.load import cast
from povid_jax.weights.safetensors_file import Tensor
from povid_jax.weights.shards import read_bin, read_folder, read_json

# PEFT's wrapper around a model; the released trainer wraps twice
_WRAPPERS = re.compile(r"^(?:base_model\.model\.)+")
_KEY = re.compile(
  r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$"
)
# Fields that change nothing in what is computed here, or that are read. PEFT
# gets new ones with almost every version: any other must be switched off.
_NEUTRAL_FIELDS = {
  "peft_type",
  "r",
  "lora_alpha",
  "bias",
  "use_rslora",
  "init_lora_weights",
  "lora_dropout",
  "task_type",
  "auto_mapping",
  "peft_version",
  "base_model_name_or_path",
  "revision",
  "inference_mode",
  "target_modules",
  "exclude_modules",
  "modules_to_save",
  "layers_to_transform",
  "layers_pattern",
  "eva_config",
  "megatron_core",
  "qalora_group_size",
  "runtime_config",
  "ensure_weight_tying",
}
# ways to start an adapter that leave the base weights as they are; the others
# (pissa, olora, corda, ...) change them, and the adapter fits only the changed
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclasses.dataclass(frozen=True)
class Adapter:
  """A LoRA tree, trainable as it is.

  Attributes:
    config: rank, alpha and the modules it covers.
    params: our path -> float32 lora_a [L, in, r] or lora_b [L, r, out];
      without L for the projector.
    others: whole parameters that were tuned beside it (the projector,
      embedding and head).
    skipped: modules that are not in the model, or outside the decoder, whose
      lora_B is zero.
  """

  config: LoraConfig
  params: dict[str, np.ndarray]
  others: dict[str, np.ndarray]
  skipped: tuple[str, ...] = ()


def skipped(adapter: Adapter) -> str:
  """A sentence about the modules that were skipped; "" if there are none."""
  if not adapter.skipped:
    return ""
  return (
    f"{len(adapter.skipped)} modules outside the decoder skipped, their lora_B "
    f"is zero ({keys.shorten(adapter.skipped, 3)})"
  )


def untuned_projector(adapter: Adapter, folder: str | Path) -> str:
  """A note where an adapter of LLaVA's own trainer comes without a projector.

  Its trainer saves the tuned projector only at the very end: beside the
  adapter of a checkpoint-500 there is none, and the base's is used.
  """
  tuned = any(path.startswith("projector/") for path in adapter.others)
  lora = any(path.startswith("projector/") for path in adapter.params)
  step = re.fullmatch(r"checkpoint-\d+", Path(folder).resolve().name)
  if tuned or lora:
    return ""
  return (
    "it contains no projector, so the projector of the base is kept; this is "
    "right if only the language model was trained. LLaVA's trainer saves a "
    "tuned projector (non_lora_trainables.bin) only at the end of a run"
    + (", not in a checkpoint like this one" if step else "")
  )


def _read_config(folder: Path) -> tuple[int, float]:
  """(rank, alpha) of adapter_config.json; refuses settings that are not
  implemented.
  """
  where = folder / "adapter_config.json"
  c = read_json(where)
  if c.get("peft_type", "LORA") != "LORA":
    raise UserError(f"{where}: peft_type is {c['peft_type']!r}, want 'LORA'")
  for field, value in c.items():
    if value and field not in _NEUTRAL_FIELDS:
      raise UserError(
        f"{where}: {field} is {value!r:.80}, want it switched off: povid_jax "
        "does not know a LoRA with it. Merge the adapter by PEFT's "
        "merge_and_unload() and convert the result"
      )
  start = c.get("init_lora_weights", True)
  if start not in _PLAIN_STARTS:
    raise UserError(
      f"{where}: init_lora_weights is {start!r}, which changes the base "
      "weights; want an adapter converted to plain LoRA (PEFT's "
      "path_initial_model_for_weight_conversion)"
    )
  if c.get("bias", "none") != "none":
    raise UserError(f"{where}: bias is {c['bias']!r}, want 'none'")
  rank, alpha = integer(c, "r", where), number(c, "lora_alpha", where)
  # rank-stabilised LoRA divides by sqrt(r): the same with another alpha
  return rank, alpha * rank**0.5 if c.get("use_rslora") else alpha


_Piece = tuple[str, int | None, str]  # our path, layer, "A" or "B"


def _linears(config: LlavaConfig) -> list[keys.Entry]:
  """The kernels that an adapter can be on: every linear layer but the head."""
  return [
    e
    for e in keys.entries(config)
    if e.path.endswith("/kernel") and e.part != "head"
  ]


def _sort_out(
  tensors: dict[str, Tensor], config: LlavaConfig
) -> tuple[dict[_Piece, Tensor], dict[str, Tensor], list[str]]:
  """(pieces of adapters, whole tensors beside them, names of modules whose
  adapters do nothing).

  An adapter on projector or tower counts where its lora_B is not zero: PEFT
  puts one on every module whose name fits, trained or not.

  Raises:
    UserError: a key that is no LoRA weight, or a module that the model does
      not have whose lora_B is not zero.
  """
  modules = {
    (e.part, name.removesuffix(".weight")): (e, layer)
    for e in _linears(config)
    for name, layer in e.names()
  }
  pieces: dict[_Piece, Tensor] = {}
  others: dict[str, Tensor] = {}
  unknown: list[str] = []
  quiet: set[str] = set()
  found: dict[str, dict[str, Tensor]] = {}
  for key, tensor in tensors.items():
    name = _WRAPPERS.sub("", key)
    parsed = _KEY.match(name)
    if parsed is not None:
      found.setdefault(parsed["module"], {})[parsed["side"]] = tensor
    elif keys.split(name) is not None and ".lora_" not in name:
      others[name] = tensor
    else:
      unknown.append(key)
  loud = []
  for module, sides in found.items():
    spot = keys.split(module + ".weight")
    at = spot and modules.get((spot[0], spot[1].removesuffix(".weight")))
    inside = at is not None and at[0].part == "decoder"
    if not inside and "B" in sides and not np.any(sides["B"].read()):
      quiet.add(module)
    elif at is None:
      loud.append(module)
    else:
      for side, tensor in sides.items():
        pieces[at[0].path.removesuffix("/kernel"), at[1], side] = tensor
  if unknown:
    raise UserError(
      f"{tensors[unknown[0]].file}: {len(unknown)} unexpected tensors "
      f"({keys.shorten(unknown)}); want ...lora_A.weight and ...lora_B.weight"
    )
  if loud:
    raise UserError(
      f"the adapter changes {len(loud)} modules that the model does not have "
      f"({keys.shorten(loud)}); these changes would be lost. It belongs to "
      "another model: merge it with its own base (PEFT's merge_and_unload) "
      "and convert that"
    )
  return pieces, others, sorted(quiet)


def _stack(
  pieces: dict[_Piece, Tensor], config: LlavaConfig, rank: int
) -> dict[str, np.ndarray]:
  """lora_a and lora_b of every covered module; absent layers stay zero."""
  out: dict[str, np.ndarray] = {}
  covered = {path for path, _, _ in pieces}
  for entry in _linears(config):
    path = entry.path.removesuffix("/kernel")
    if path not in covered:
      continue
    d_out, d_in = entry.shape
    shapes = {"A": (rank, d_in), "B": (d_out, rank)}
    for side, shape in shapes.items():
      one = shape[::-1]
      stacked = np.zeros((entry.layers, *one) if entry.layers else one, "f4")
      for _, layer in entry.names():
        tensor = pieces.get((path, layer, side))
        other = pieces.get((path, layer, "B" if side == "A" else "A"))
        if tensor is None and other is not None:
          raise UserError(
            f"{other.file}: {other.key} has no matching lora_{side}"
          )
        if tensor is None:
          continue
        if tensor.shape != shape:
          raise UserError(
            f"{tensor.file}: {tensor.key} has shape {tensor.shape}, "
            f"want {shape}"
          )
        where = ... if layer is None else layer
        stacked[where] = cast(tensor.read().T, stacked.dtype, tensor.name)
      out[f"{path}/lora_{side.lower()}"] = stacked
  return out


def _others(
  tensors: dict[str, Tensor], config: LlavaConfig
) -> dict[str, np.ndarray]:
  """Whole parameters tuned beside the adapter, in our layout."""
  wanted = {(e.part, e.name): e for e in keys.entries(config) if not e.layers}
  out = {}
  for key, tensor in tensors.items():
    entry = wanted.get(keys.split(key) or ("", ""))
    if entry is None:
      raise UserError(
        f"{tensor.file}: unexpected {tensor.key}; beside the adapter only the "
        "projector, the embedding and the head can be tuned. Merge it by "
        "PEFT's merge_and_unload() and convert the result"
      )
    rows = entry.name == "embed_tokens.weight" or entry.part == "head"
    grown = tensor.shape[:1] != entry.shape[:1]
    if rows and grown and tensor.shape[1:] == entry.shape[1:]:
      raise UserError(
        f"{tensor.file}: {tensor.key} has {tensor.shape[0]} rows, the model "
        f"has {entry.shape[0]}: tokens were added for this adapter. Convert a "
        "merged model instead: "
        f"model.resize_token_embeddings({tensor.shape[0]}), PEFT's "
        "merge_and_unload(), save_pretrained with the tokenizer"
      )
    if tensor.shape != entry.shape:
      raise UserError(
        f"{tensor.file}: {tensor.key} has shape {tensor.shape}, "
        f"want {entry.shape}: the adapter belongs to another base model"
      )
    value = tensor.read().transpose(entry.axes)
    out[entry.path] = cast(value, np.dtype(np.float32), tensor.name)
  return out


def _non_lora(folder: Path) -> dict[str, Tensor]:
  """non_lora_trainables.bin with its wrappers' prefixes taken off."""
  file = folder / "non_lora_trainables.bin"
  if not file.is_file():
    return {}
  out = {}
  for key, tensor in read_bin(file).items():
    name = _WRAPPERS.sub("", key)
    # some have none or two of these; LLaVA's own loader takes one off as well
    name = re.sub(r"^(model\.)*", "model.", name)
    out[name] = tensor
  return out


def read_adapter(folder: str | Path, config: LlavaConfig) -> Adapter:
  """Reads a PEFT LoRA folder as a tree that can be trained on.

  Args:
    folder: adapter_config.json with adapter_model.safetensors or .bin, and
      perhaps non_lora_trainables.bin.
    config: the model that it belongs to.

  Raises:
    UserError: there is no adapter, its kind is not implemented, a shape is
      wrong, or it changes modules outside the decoder.
  """
  folder = Path(folder)
  tensors = read_folder(folder, ("adapter_model",))
  rank, alpha = _read_config(folder)
  pieces, beside, skipped = _sort_out(tensors, config)
  params = _stack(pieces, config, rank)
  if not params:
    raise UserError(
      f"{folder}: the adapter matches no module of this model; it seems to "
      "belong to another base"
    )
  names = [re.escape(k.removesuffix("/lora_a")) for k in params if k[-1] == "a"]
  return Adapter(
    config=LoraConfig(rank, alpha, targets=f"^({'|'.join(names)})$"),
    params=dict(sorted(params.items())),
    others=_others(beside | _non_lora(folder), config),
    skipped=tuple(skipped),
  )
