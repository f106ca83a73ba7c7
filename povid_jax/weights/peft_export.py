"""PEFT adapters out: what a run trained, as a LoRA folder."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig, LoraConfig
from povid_jax.weights import keys
from povid_jax.weights.export import write_safetensors
from povid_jax.weights.original_export import torch_name

# where modules live in the classes of transformers that read the adapter;
# 5 has no `vision_model.` between a tower and its layers
_PARTS = {
  "decoder": "model.language_model.",
  "vision": "model.vision_tower.",
  "projector": "model.multi_modal_projector.",
}


def _module(
  entry: keys.Entry, name: str, layout: str, config: LlavaConfig
) -> str:
  """Name of the linear layer behind a kernel."""
  if layout == "original":
    name = torch_name(entry, name, config)
  else:
    name = _PARTS[entry.part] + name
  return name.removesuffix(".weight")


def _adapter_config(
  lora: LoraConfig, modules: list[str], base: str
) -> dict[str, Any]:
  return {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "r": lora.rank,
    "lora_alpha": lora.alpha,
    "lora_dropout": 0.0,
    # a pattern: bare names would match other parts' q_proj too
    "target_modules": "|".join(modules),
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "inference_mode": True,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
  }


def write_adapter(
  folder: Path,
  lora: LoraConfig,
  trained: dict[str, Any],
  config: LlavaConfig,
  *,
  layout: str = "llava-hf",
  base: str = "",
) -> None:
  """Writes a PEFT folder into an existing (temporary) folder.

  Args:
    trained: our path -> array; adapters, and perhaps the projector (LLaVA's
      loader wants it whole, also where it was not trained).
    layout: names for "llava-hf" (transformers 4.52 and later) or for the
      "original" LLaVA code.
    base: what adapter_config.json names as the base model.

  Raises:
    UserError: something else than adapters and projector was trained.
  """
  tensors: dict[str, np.ndarray] = {}
  modules = set()
  kernels = {e.path.removesuffix("/kernel"): e for e in keys.entries(config)}
  projector = {e.path: e for e in keys.projector_entries(config)}
  loose = {}
  for path, array in sorted(trained.items()):
    if path in projector:
      loose[path] = np.asarray(array)
      continue
    stem, _, side = path.rpartition("/")
    if side not in ("lora_a", "lora_b"):
      raise UserError(
        f"{path} was trained; a PEFT folder can hold only adapters and the "
        "projector: use to-hf"
      )
    entry = kernels[stem]
    pattern = re.escape(_module(entry, entry.name, layout, config))
    modules.add(pattern.replace(r"\{\}", r"\d+"))
    whole = np.asarray(array, np.float32)
    for name, layer in entry.names():
      name = f"base_model.model.{_module(entry, name, layout, config)}"
      one = whole if layer is None else whole[layer]
      tensors[f"{name}.lora_{side[-1].upper()}.weight"] = one.T
  described = _adapter_config(lora, sorted(modules), base)
  if loose:
    _write_projector(folder, loose, config, layout, tensors, described)
  write_safetensors(folder / "adapter_model.safetensors", tensors)
  text = json.dumps(described, indent=2)
  (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def _write_projector(
  folder: Path,
  loose: dict[str, np.ndarray],
  config: LlavaConfig,
  layout: str,
  tensors: dict[str, np.ndarray],
  described: dict[str, Any],
) -> None:
  """A tuned projector: PEFT's modules_to_save, or the original side file."""
  entries = {e.path: e for e in keys.projector_entries(config)}
  values = {}
  for path, array in loose.items():
    entry = entries[path]
    name = f"model.multi_modal_projector.{entry.name}"
    if layout == "original":
      name = torch_name(entry, entry.name, config)
    value = np.asarray(array, np.float32).transpose(entry.axes)
    values[f"base_model.model.{name}"] = value
  if layout == "llava-hf":
    tensors |= values
    described["modules_to_save"] = ["multi_modal_projector"]
    return
  try:
    import torch
  except ImportError as error:
    raise UserError(
      "the projector was trained: its non_lora_trainables.bin is a PyTorch "
      "pickle, writing it needs torch (`pip install torch`)"
    ) from error
  tree = {
    k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in values.items()
  }
  torch.save(tree, folder / "non_lora_trainables.bin")
