"""Recognises the kind of a model from the names of its tensors.

This is checked before missing tensors are reported: an adapter saved beside its
base, packed weights, a projector or a language model alone.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from povid_jax.weights import keys

_T = TypeVar("_T")
# What wrappers of training put into every name; the weights are the same
_WRAPPED = re.compile(
  r"^(?:module\.|_forward_module\.)+"
  r"|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\."
)
_PACKED = re.compile(
  r"\.(absmax|quant_map|quant_state\..+|qweight|qzeros|g_idx|SCB|weight_packed"
  r"|weight_scale|weight_scale_inv|input_scale)$"
)
_LORA = re.compile(r"\.lora_(A|B|magnitude_vector|embedding_[AB])\b")


def unwrapped(tensors: Mapping[str, _T]) -> dict[str, _T]:
  """The tensors by their names without wrappers (DDP, FSDP, torch.compile), and
  without what a trainer put before every name (`policy.`, `base_model.model.`).
  """
  out: dict[str, _T] = {}
  for key, tensor in tensors.items():
    name = _WRAPPED.sub("", key)
    # the same name twice is reported later
    out[key if name in out else name] = tensor
  best = shorter = out
  for _ in range(4):
    prefixes = {key.partition(".")[0] for key in shorter}
    if len(prefixes) != 1:
      break
    start = len(prefixes.pop()) + 1
    shorter = {key[start:]: tensor for key, tensor in shorter.items()}
    if _known(shorter) > _known(best):
      best = shorter
  return best


def _known(names: Iterable[str]) -> int:
  """How many names are those of a tensor in some layout."""
  spots = [keys.split(name) or ("", "") for name in names]
  return sum(
    bool(part)
    and (
      part != "decoder"
      or name.startswith(("layers.", "embed_tokens.", "norm."))
    )
    for part, name in spots
  )


def explain(names: Iterable[str]) -> str:
  """Why these are not the weights of a LLaVA, and what to do; "" if unknown."""
  names = list(names)
  if packed := sorted(key for key in names if _PACKED.search(key)):
    return (
      f"the weights are quantised ({packed[0]}): want the original checkpoint "
      "in 16 or 32 bits, or a checkpoint written with transformers' "
      "model.dequantize() and save_pretrained()"
    )
  if lora := sorted(key for key in names if _LORA.search(key)):
    if len(lora) == len(names):
      return (
        "a LoRA adapter alone: give its base as SRC, and this folder with "
        "--adapter"
      )
    return (
      f"an adapter is saved together with its base ({lora[0]}): merge it with "
      "PEFT's model.merge_and_unload(), save the result with "
      "save_pretrained() and convert that"
    )
  parts = {(keys.split(key) or ("",))[0] for key in names}
  if parts == {"projector"}:
    return (
      "this holds only a projector, from a training with a frozen language "
      "model: combine it with its base using LLaVA's "
      "load_pretrained_model(path, model_base, name), and save the result "
      "with save_pretrained"
    )
  if parts <= {"decoder", "head"} and any(
    key.endswith("embed_tokens.weight") for key in names
  ):
    return (
      "a language model alone, without a projector: want a LLaVA checkpoint, "
      "or mm_projector.bin beside the language model"
    )
  if any(key.startswith(("text_model.", "vision_model.")) for key in names):
    return (
      "a CLIP alone: give it with --vision-tower, and a LLaVA checkpoint as SRC"
    )
  return ""
