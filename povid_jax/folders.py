"""Explains a folder that is not a model folder, and what to do with it.

Every reader of model folders calls this module before it reports a missing
file: users often give an adapter alone, an incomplete download, the checkpoint
of another trainer, or the name of a model on the hub. Only names, sizes and a
few kilobytes of JSON are read; no weights.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from povid_jax import files
from povid_jax.errors import UserError

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_BILLIONS = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_POINTER = b"version https://git-lfs"
_CONVERT = "python -m povid_jax.convert from-torch"
# pattern of file names -> what the file is, and what to do
_OF_OTHERS = (
  (r".+\.gguf$", "weights of llama.cpp (GGUF)"),
  (r"consolidated\.\d+\.pth$", "Meta's own layout of Llama"),
  (r"(tf_model|model)\.h5$", "weights of TensorFlow"),
  (r"flax_model.*\.msgpack$", "weights of Flax (msgpack)"),
  (r".+\.onnx$", "an ONNX model"),
  (r"weights.*\.npz$", "weights of MLX"),
  (r"rank\d+\.(safetensors|engine)$", "an engine of TensorRT-LLM"),
  (r"latest_checkpointed_iteration\.txt$", "a checkpoint of Megatron"),
  (
    r".+\.(pth|pt|ckpt)$",
    "a PyTorch file under a name of its own (if it is a "
    "state dict, name it pytorch_model.bin)",
  ),
)


def is_remote(path: str | Path) -> bool:
  """Whether a path names a bucket or a server (gs://..., s3:/..., memory://)."""
  # pathlib makes one slash of two; one letter is a Windows drive
  return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is not None


def refuse_remote(flags: Mapping[str, Any], but: Sequence[str] = ()) -> None:
  """Refuses remote paths among a command's flags, before the command runs.

  If gs://b/x were opened as a local path, it would create a folder "gs:".

  Args:
    flags: flag name -> value or values (vars of an argparse namespace).
    but: flags that hold addresses, or remote paths that the command can open.

  Raises:
    UserError: a flag has a remote path; the message names both.
  """
  for name, value in flags.items():
    if name in but:
      continue
    for one in value if isinstance(value, list | tuple) else [value]:
      if isinstance(one, str | Path) and is_remote(one):
        raise UserError(
          f"--{name.replace('_', '-')}={one}: this command reads and writes "
          "folders of this machine only; copy it here, or mount the bucket "
          "(gcsfuse, s3fs)"
        )


def _json(file: Path) -> dict[str, Any]:
  """A small JSON object; {} for anything else."""
  try:
    if file.stat().st_size > 1 << 22:
      return {}
    value = files.parse_json(file.read_bytes())
  except (OSError, ValueError):
    return {}
  return value if isinstance(value, dict) else {}


def download(name: str) -> str:
  """The command that downloads a model from the hub, as text."""
  folder = name.split("/")[1]
  found = _BILLIONS.search(name)
  size = ""
  if found and float(found[1]) < 1000:
    size = f" (about {float(found[1]) * 2:.0f} GB in 16 bits)"
  elif "clip-vit-large" in name:
    size = " (about 1.7 GB)"
  return f"`hf download {name} --local-dir {folder}`{size}"


def absent(spec: str | Path) -> str:
  """What to do about a path that does not exist; "" if there is no hint."""
  name = str(spec)
  if not _HUB.fullmatch(name) or Path(name.split("/")[0]).is_dir():
    return ""
  return (
    f"{name} looks like a model name on the Hugging Face hub; this command "
    f"downloads nothing: run {download(name)} and give that folder"
  )


def explain(folder: Path) -> str:
  """What the folder is, and what to do with it; "" if it is not recognised."""
  if folder.is_file():
    return "it is a file: give the folder that contains it"
  if not folder.is_dir():
    return absent(folder)
  names = {p.name for p in folder.iterdir()}
  for rule in _RULES:
    if said := rule(folder, names):
      return said
  return ""


def suffix(folder: Path) -> str:
  """`explain` as the end of a sentence: "; it is ..." or ""."""
  said = explain(folder)
  return f"; {said}" if said else ""


def pointers(folder: Path, names: set[str] | None = None) -> str:
  """The error text if a file is only a git LFS pointer; "" if none is."""
  for name in sorted(names or {p.name for p in folder.iterdir()}):
    file = folder / name
    if not name.endswith((*_WEIGHTS, ".model", ".json")) or not file.is_file():
      continue
    if file.stat().st_size < 1024:
      with open(file, "rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
          return (
            f"{name} is a git LFS pointer, not the file itself: run `git lfs "
            "pull` in the folder, or download the file with `hf download`"
          )
  return ""


def _half_a_download(folder: Path, names: set[str]) -> str:
  parts = [n for n in names if n.endswith((".incomplete", ".part", ".aria2"))]
  cache = folder / ".cache/huggingface/download"
  if not parts and cache.is_dir():
    parts = [p.name for p in cache.rglob("*.incomplete")]
  if parts:
    return (
      f"the download is not finished ({min(parts)}): run the same "
      "`hf download` again"
    )
  return ""


def _ours(folder: Path, names: set[str]) -> str:
  if {"model.json", "params"} <= names:
    return (
      "it is already a model folder of povid_jax: use it as it is, or "
      "convert it for transformers with `python -m povid_jax.convert to-hf`"
    )
  if "config.json" in names and "init" in _json(folder / "config.json"):
    return (
      "it is the run directory of a training run of povid_jax that has saved "
      "no checkpoint yet: run the training command again to continue"
      if not any((folder / "checkpoints").glob("[0-9]*"))
      else "it is the run directory of a training run of povid_jax: give it as "
      "a checkpoint, or convert it first with `python -m povid_jax.convert "
      "to-hf`"
    )
  return ""


def _has_weights(names: set[str]) -> bool:
  return any(
    re.fullmatch(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)", n)
    or n.endswith(".index.json")
    for n in names
  )


def _adapter(folder: Path, names: set[str]) -> str:
  """The hint for a LoRA folder, of PEFT or of LLaVA's own trainer."""
  if not any(n.startswith("adapter_") for n in names) or _has_weights(names):
    return ""
  weights = any(n.startswith("adapter_model.") for n in names)
  if not weights or "adapter_config.json" not in names:
    lost = "adapter_config.json" if weights else "adapter_model.safetensors"
    return (
      f"it is a part of a LoRA adapter, without its {lost}: check that the "
      "download, or the copy, is complete"
    )
  base = _json(folder / "adapter_config.json").get("base_model_name_or_path")
  of = f" of {base}" if isinstance(base, str) and base else ""
  return (
    f"it is a LoRA adapter alone{of}: `{_CONVERT} BASE DST "
    f"--adapter={folder}` merges it into the weights of its base; "
    "config.adapter and score --adapter accept it as it is"
  )


def _projector(folder: Path, names: set[str]) -> str:
  found = names & {"mm_projector.bin", "mm_projector.safetensors"}
  if not found or _has_weights(names):
    return ""
  return (
    f"it holds only a projector ({min(found)}), from a training with a frozen "
    "language model: combine it with its base using LLaVA's "
    "load_pretrained_model(path, model_base, name), save the result with "
    f"save_pretrained and run `{_CONVERT}` on that"
  )


def _trainer(folder: Path, names: set[str]) -> str:
  """The hint for a trainer's checkpoint in the trainer's own format."""
  if any(re.fullmatch(r"global_step\d+", n) for n in names) or any(
    n.startswith(("mp_rank_", "zero_pp_rank_")) for n in names
  ):
    return (
      "it is a checkpoint of DeepSpeed: `python zero_to_fp32.py . .` in that "
      "folder writes the weights (the script is in the folder), then run "
      f"`{_CONVERT}`"
    )
  if any(n.startswith("pytorch_model_fsdp") or n.endswith(".distcp")
         for n in names):  # fmt: skip
    return (
      "it is a sharded checkpoint of FSDP: `accelerate merge-weights` writes "
      f"its weights, then run `{_CONVERT}`"
    )
  inner = folder / "pytorch_model_fsdp_0"
  return (
    _trainer(inner, {p.name for p in inner.iterdir()})
    if (inner.is_dir())
    else ""
  )


def _quantised(folder: Path, names: set[str]) -> str:
  c = _json(folder / "config.json")
  how = c.get("quantization_config")
  if how is None and isinstance(c.get("text_config"), dict):
    how = c["text_config"].get("quantization_config")
  if not isinstance(how, dict):
    return ""
  method = how.get("quant_method") or "some way"
  return (
    f"its weights are quantised ({method}): want the original checkpoint in "
    "16 or 32 bits, or a checkpoint written with transformers' "
    "model.dequantize() and save_pretrained()"
  )


def _others(folder: Path, names: set[str]) -> str:
  if _has_weights(names):
    return ""
  for pattern, what in _OF_OTHERS:
    if any(re.fullmatch(pattern, name) for name in names):
      return (
        f"it holds {what}: want PyTorch weights (.safetensors or .bin) in the "
        "layout of LLaVA or of transformers"
      )
  return ""


def _words_alone(folder: Path, names: set[str]) -> str:
  """The hint for a folder whose large files are not there."""
  small = {"config.json", "tokenizer_config.json", "tokenizer.model",
           "tokenizer.json"}  # fmt: skip
  if not names & small or _has_weights(names) or "model.json" in names:
    return ""
  return (
    f"it holds {', '.join(sorted(names & small))}, but no weights: the large "
    "files of the download are missing (run the same `hf download` again)"
  )


def _deeper(folder: Path, names: set[str]) -> str:
  """The hint for a folder above the right one: checkpoints, model folders or
  the hub's cache.
  """
  if _has_weights(names):
    return ""
  inside = [
    p.parent.relative_to(folder).as_posix()
    for pattern in ("*/config.json", "*/model.json", "snapshots/*/config.json")
    for p in folder.glob(pattern)
  ]
  if not inside:
    return ""
  shown = ", ".join(sorted(inside)[:5])
  return f"the weights may be one folder deeper: give {shown}"


def _llava(folder: Path, names: set[str]) -> str:
  """The hint for a PyTorch checkpoint that must be converted first."""
  c = _json(folder / "config.json")
  if not _has_weights(names) or not ("model_type" in c or "architectures" in c):
    return ""
  kind = c.get("model_type") or c["architectures"]
  return (
    f"it is a checkpoint of PyTorch ({kind}): `{_CONVERT} {folder} MODEL` "
    "converts it to a model folder; give that folder"
  )


_RULES: tuple[Callable[[Path, set[str]], str], ...] = (
  pointers,
  _half_a_download,
  _ours,
  _adapter,
  _projector,
  _trainer,
  _quantised,
  _others,
  _llava,
  _deeper,
  _words_alone,
)
