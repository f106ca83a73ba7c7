"""PEFT adapters out: what a run trained, as a LoRA folder."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig, LoraConfig, VisionConfig
from povid_jax.models.params import merge_lora
from povid_jax.weights import families, keys
from povid_jax.weights.export import write_safetensors
from povid_jax.weights.original_export import torch_name


def _name(
  entry: keys.Entry, name: str, config: LlavaConfig, layout: str
) -> str:
  """Name of a tensor among the modules of the class that reads an adapter."""
  if layout == "original":
    return torch_name(entry, name, config)
  model = families.of(config)
  return model.name(model.modules, entry.part, name)


def _adapter_config(
  lora: LoraConfig, modules: list[str], base: str
) -> dict[str, Any]:
  names = "|".join(modules)
  return {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "r": lora.rank,
    "lora_alpha": lora.alpha,
    "lora_dropout": 0.0,
    # a pattern: bare names would also match the vision tower's q_proj
    "target_modules": f"({names})",
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
    UserError: something else than adapters and projector was trained, or a
      layout that the family does not have.
  """
  if layout == "original" and not isinstance(config.vision, VisionConfig):
    raise UserError(
      "LLaVA's own code has no model of this family; want --layout=llava-hf"
    )
  if layout == "llava-hf":
    trained = _whole_projector(trained, lora)
  entries = {e.path: e for e in keys.entries(config)}
  tensors: dict[str, np.ndarray] = {}
  modules, loose = set(), {}
  for path, array in sorted(trained.items()):
    stem, _, side = path.rpartition("/")
    entry = entries.get(path)
    if entry is not None and entry.part == "projector":
      loose[path] = np.asarray(array)
      continue
    entry = entries.get(f"{stem}/kernel")
    if side not in ("lora_a", "lora_b") or entry is None:
      raise UserError(
        f"{path} was trained; a PEFT folder can hold only adapters and the "
        "projector: use to-hf"
      )
    module = _name(entry, entry.name, config, layout).removesuffix(".weight")
    modules.add(re.escape(module).replace(r"\{\}", r"\d+"))
    value = np.asarray(array, np.float32)
    for layer, one in enumerate(value if entry.layers else value[None]):
      name = f"base_model.model.{module.format(layer)}"
      tensors[f"{name}.lora_{side[-1].upper()}.weight"] = one.T
  described = _adapter_config(lora, sorted(modules), base)
  if loose:
    _write_projector(folder, loose, config, layout, tensors, described)
  write_safetensors(folder / "adapter_model.safetensors", tensors)
  text = json.dumps(described, indent=2)
  (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def _whole_projector(
  trained: dict[str, Any], lora: LoraConfig
) -> dict[str, Any]:
  """Folds the projector's adapters into kernels that were trained as well.

  PEFT cannot hold a module both as an adapter and whole (modules_to_save).
  """
  kernels = {p.rpartition("/")[0] for p in trained if p.endswith("/kernel")}
  whole = {
    path: np.asarray(value, np.float32)
    for path, value in trained.items()
    if path.rpartition("/")[0] in kernels
  }
  rest = {p: v for p, v in trained.items() if p not in whole}
  return rest | merge_lora(whole, lora.scale)


def _write_projector(
  folder: Path,
  loose: dict[str, np.ndarray],
  config: LlavaConfig,
  layout: str,
  tensors: dict[str, np.ndarray],
  described: dict[str, Any],
) -> None:
  """A tuned projector: PEFT's modules_to_save, or the original side file."""
  entries = {e.path: e for e in keys.entries(config)}
  values = {}
  for path, array in loose.items():
    entry = entries[path]
    name = _name(entry, entry.name, config, layout)
    value = np.asarray(array, np.float32).transpose(entry.axes)
    values[f"base_model.model.{name}"] = value
  if layout == "llava-hf":
    tensors |= values
    module = families.of(config).modules["projector"].split(".")[-2]
    described["modules_to_save"] = [module]
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
