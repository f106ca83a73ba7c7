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
from povid_jax.weights.shards import Tensor, read_bin, read_folder, read_json

# PEFT's wrapper around a model; the released trainer wraps twice
_WRAPPERS = re.compile(r"^(?:base_model\.model\.)+")
_KEY = re.compile(
  r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$"
)
# fields that change the numbers in a way that we do not compute
_MUST_BE_OFF = (
  "use_dora",
  "fan_in_fan_out",
  "rank_pattern",
  "alpha_pattern",
  "lora_bias",
  "megatron_config",
  "layer_replication",
  "alora_invocation_tokens",
  "use_qalora",
  "use_bdlora",
  "arrow_config",
  "kasa_config",
  "monteclora_config",
  "velora_config",
)
# ways to start an adapter that leave the base weights as they are; the others
# (pissa, olora, corda, ...) change them, and the adapter fits only the changed
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclasses.dataclass(frozen=True)
class Adapter:
  """A LoRA tree, trainable as it is.

  Attributes:
    config: rank, alpha and the modules it covers.
    params: our path -> float32 lora_a [L, in, r] or lora_b [L, r, out].
    others: whole parameters that were tuned beside it (the projector).
    skipped: modules outside the decoder whose lora_B is zero.
  """

  config: LoraConfig
  params: dict[str, np.ndarray]
  others: dict[str, np.ndarray]
  skipped: tuple[str, ...] = ()


def skipped(adapter: Adapter) -> str:
  """Which modules were left out, and why, in words; "" where none was."""
  if not adapter.skipped:
    return ""
  return (
    f"{len(adapter.skipped)} modules outside the decoder skipped, their lora_B "
    f"is zero ({keys.shorten(adapter.skipped, 3)})"
  )


def _read_config(folder: Path) -> tuple[int, float]:
  """(rank, alpha) of adapter_config.json; refuses what we do not compute."""
  where = folder / "adapter_config.json"
  c = read_json(where)
  if c.get("peft_type", "LORA") != "LORA":
    raise UserError(f"{where}: peft_type is {c['peft_type']!r}, want 'LORA'")
  for field in _MUST_BE_OFF:
    if c.get(field):
      raise UserError(f"{where}: {field} is {c[field]!r}, want it off")
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


def _module_of(name: str) -> tuple[str, int] | None:
  """(our path of the linear layer, its layer index) of a torch module."""
  spot = keys.split(name + ".")
  if spot is None or spot[0] != "decoder":
    return None
  inner = re.fullmatch(r"layers\.(\d+)\.(self_attn|mlp)\.(\w+)\.", spot[1])
  if inner is None:
    return None
  return f"decoder/layers/{inner[2]}/{inner[3]}", int(inner[1])


def _sort_out(
  tensors: dict[str, Tensor], config: LlavaConfig
) -> tuple[dict[tuple[str, int, str], Tensor], dict[str, Tensor], list[str]]:
  """(decoder pieces, projector tensors, names of modules not in the decoder).

  Raises:
    UserError: a key that is no LoRA weight, or a module outside the decoder
      whose lora_B is not zero.
  """
  linears = {
    e.path.removesuffix("/kernel"): e
    for e in keys.decoder_linears(config.decoder)
    if e.path.endswith("/kernel")
  }
  pieces: dict[tuple[str, int, str], Tensor] = {}
  others: dict[str, Tensor] = {}
  outside, unknown, loud = [], [], []
  for key, tensor in tensors.items():
    name = _WRAPPERS.sub("", key)
    parsed = _KEY.match(name)
    if parsed is None:
      spot = keys.split(name)
      if spot is not None and spot[0] == "projector":
        others[name] = tensor
      else:
        unknown.append(key)
      continue
    spot = _module_of(parsed["module"])
    entry = linears.get(spot[0]) if spot else None
    if spot and entry and spot[1] < entry.layers:
      pieces[spot[0], spot[1], parsed["side"]] = tensor
      continue
    outside.append(parsed["module"])
    if parsed["side"] == "B" and np.any(tensor.read()):
      loud.append(parsed["module"])
  if unknown:
    raise UserError(
      f"{tensors[unknown[0]].file}: {len(unknown)} unexpected tensors "
      f"({keys.shorten(unknown)}); want ...lora_A.weight and ...lora_B.weight"
    )
  if loud:
    raise UserError(
      f"the adapter changes {len(loud)} modules that the decoder does not have "
      f"({keys.shorten(loud)}); they would be lost. It is of another model, "
      "or it was trained on the vision tower"
    )
  return pieces, others, sorted(set(outside))


def _stack(
  pieces: dict[tuple[str, int, str], Tensor],
  config: LlavaConfig,
  rank: int,
) -> dict[str, np.ndarray]:
  """lora_a and lora_b of every covered module; absent layers stay zero."""
  out: dict[str, np.ndarray] = {}
  covered = {path for path, _, _ in pieces}
  for entry in keys.decoder_linears(config.decoder):
    path = entry.path.removesuffix("/kernel")
    if path not in covered or entry.path.endswith("/bias"):
      continue
    d_out, d_in = entry.shape
    shapes = {"A": (rank, d_in), "B": (d_out, rank)}
    for side, shape in shapes.items():
      stacked = np.zeros((entry.layers, *shape[::-1]), np.float32)
      for layer in range(entry.layers):
        tensor = pieces.get((path, layer, side))
        other = pieces.get((path, layer, "B" if side == "A" else "A"))
        if tensor is None and other is not None:
          raise UserError(
            f"{other.file}: {other.key} is there, its lora_{side} is not"
          )
        if tensor is None:
          continue
        if tensor.shape != shape:
          raise UserError(
            f"{tensor.file}: {tensor.key} has shape {tensor.shape}, "
            f"want {shape}"
          )
        stacked[layer] = cast(tensor.read().T, stacked.dtype, tensor.name)
      out[f"{path}/lora_{side.lower()}"] = stacked
  return out


def _others(
  tensors: dict[str, Tensor], config: LlavaConfig
) -> dict[str, np.ndarray]:
  """Projector parameters tuned beside the adapter, in our layout."""
  wanted = {e.name: e for e in keys.projector_entries(config)}
  out = {}
  for key, tensor in tensors.items():
    spot = keys.split(key)
    entry = wanted.get(spot[1]) if spot and spot[0] == "projector" else None
    if entry is None:
      raise UserError(
        f"{tensor.file}: unexpected {tensor.key}; beside the adapter only the "
        "projector can be tuned"
      )
    if tensor.shape != entry.shape:
      raise UserError(
        f"{tensor.file}: {tensor.key} has shape {tensor.shape}, "
        f"want {entry.shape}"
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
    UserError: no adapter there, a kind that we do not compute, a wrong shape,
      or modules outside the decoder that it changes.
  """
  folder = Path(folder)
  tensors = read_folder(folder, ("adapter_model",))
  rank, alpha = _read_config(folder)
  pieces, beside, skipped = _sort_out(tensors, config)
  params = _stack(pieces, config, rank)
  if not params:
    raise UserError(f"{folder}: the adapter covers no module of the decoder")
  names = [re.escape(k.removesuffix("/lora_a")) for k in params if k[-1] == "a"]
  return Adapter(
    config=LoraConfig(rank, alpha, targets=f"^({'|'.join(names)})$"),
    params=dict(sorted(params.items())),
    others=_others(beside | _non_lora(folder), config),
    skipped=tuple(skipped),
  )
