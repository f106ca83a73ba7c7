"""What lies in a folder that is not what was asked for, and what to do.

Every reader of model folders asks here before it says that something is
missing: people bring an adapter alone, half a download, a trainer's checkpoint,
the name of a model on the hub. Names and sizes are looked at, and at most a few
kilobytes of JSON; no weights are read.
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
# by names of files: what it is, and what to do
_OF_OTHERS = (
  (r".+\.gguf$", "weights of llama.cpp (GGUF)"),
  (r"consolidated\.\d+\.pth$", "Meta's own layout of Llama"),
  (r"(tf_model|model)\.h5$", "weights of TensorFlow"),
  (r"flax_model.*\.msgpack$", "weights of Flax (msgpack)"),
  (r".+\.onnx$", "an ONNX model"),
)


def is_remote(path: str | Path) -> bool:
  """Whether a path names a bucket or a server (gs://..., s3:/..., memory://)."""
  # pathlib makes one slash of two; one letter is a Windows drive
  return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is not None


def refuse_remote(flags: Mapping[str, Any], but: Sequence[str] = ()) -> None:
  """Refuses remote paths among a command's flags, before anything runs.

  Opened as a file of this machine, gs://b/x would be a folder called "gs:".

  Args:
    flags: flag name -> value or values (vars of an argparse namespace).
    but: flags that are addresses, or whose paths the command itself can open.

  Raises:
    UserError: names the flag and the path.
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
  """The commands that fetch a model of the hub, in words."""
  folder = name.split("/")[1]
  found = _BILLIONS.search(name)
  size = ""
  if found and float(found[1]) < 1000:
    size = f" (about {float(found[1]) * 2:.0f} GB in 16 bits)"
  elif "clip-vit-large" in name:
    size = " (about 1.7 GB)"
  return f"`hf download {name} --local-dir {folder}`{size}"


def absent(spec: str | Path) -> str:
  """What to do about a path at which nothing is; "" where nobody can tell."""
  name = str(spec)
  if not _HUB.fullmatch(name) or Path(name.split("/")[0]).is_dir():
    return ""
  return (
    f"{name} looks like a name on the Hugging Face hub; nothing is downloaded "
    f"here: run {download(name)} and name that folder"
  )


def explain(folder: Path) -> str:
  """What the folder is, and what to do with it; "" where nobody can tell."""
  if folder.is_file():
    return "it is a file: name the folder that it lies in"
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
  """Names a file that git LFS left as a pointer; "" for none."""
  for name in sorted(names or {p.name for p in folder.iterdir()}):
    file = folder / name
    if not name.endswith((*_WEIGHTS, ".model", ".json")) or not file.is_file():
      continue
    if file.stat().st_size < 1024:
      with open(file, "rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
          return (
            f"{name} is a pointer of git LFS, not the file itself: run "
            "`git lfs pull` in the folder, or fetch it by `hf download`"
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
      "it is a model folder of povid_jax already: use it as it is, or "
      "`python -m povid_jax.convert to-hf` for transformers"
    )
  if "config.json" in names and "init" in _json(folder / "config.json"):
    return (
      "it is the directory of a training run of povid_jax without a saved "
      "step: start the run again, the same command continues"
      if not any((folder / "checkpoints").glob("[0-9]*"))
      else "it is the directory of a training run of povid_jax: name it as a "
      "checkpoint, or `python -m povid_jax.convert to-hf` it first"
    )
  return ""


def _has_weights(names: set[str]) -> bool:
  return any(
    re.fullmatch(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)", n)
    or n.endswith(".index.json")
    for n in names
  )


def _adapter(folder: Path, names: set[str]) -> str:
  """A LoRA folder, of PEFT or of LLaVA's own trainer."""
  if not any(n.startswith("adapter_") for n in names) or _has_weights(names):
    return ""
  base = _json(folder / "adapter_config.json").get("base_model_name_or_path")
  of = f" of {base}" if isinstance(base, str) and base else ""
  return (
    f"it is a LoRA adapter alone{of}: `{_CONVERT} BASE DST --adapter={folder}` "
    "folds it into the weights of its base, and config.adapter or score "
    "--adapter take it as it is"
  )


def _projector(folder: Path, names: set[str]) -> str:
  found = names & {"mm_projector.bin", "mm_projector.safetensors"}
  if not found or _has_weights(names):
    return ""
  return (
    f"it holds a projector alone ({min(found)}), from a training with a frozen "
    "language model: put it together with its base by LLaVA's "
    "load_pretrained_model(path, model_base, name), save_pretrained the result "
    f"and run `{_CONVERT}` on that"
  )


def _trainer(folder: Path, names: set[str]) -> str:
  """A trainer's checkpoint whose weights are in pieces of its own."""
  if any(re.fullmatch(r"global_step\d+", n) for n in names) or any(
    n.startswith(("mp_rank_", "zero_pp_rank_")) for n in names
  ):
    return (
      "it is a checkpoint of DeepSpeed: `python zero_to_fp32.py . .` in it "
      f"writes its weights (the script lies there), then `{_CONVERT}`"
    )
  if any(n.startswith("pytorch_model_fsdp") or n.endswith(".distcp")
         for n in names):  # fmt: skip
    return (
      "it is a sharded checkpoint of FSDP: `accelerate merge-weights` writes "
      f"its weights, then `{_CONVERT}`"
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
    f"its weights are quantised ({method}): want the checkpoint that it was "
    "made from, in 16 or 32 bits, or what transformers' model.dequantize() and "
    "save_pretrained() write"
  )


def _others(folder: Path, names: set[str]) -> str:
  if _has_weights(names):
    return ""
  for pattern, what in _OF_OTHERS:
    if any(re.fullmatch(pattern, name) for name in names):
      return (
        f"it holds {what}: want PyTorch's, .safetensors or .bin in the layout "
        "of LLaVA or of transformers"
      )
  return ""


def _deeper(folder: Path, names: set[str]) -> str:
  """The folder above what was meant: checkpoints, or the hub's own cache."""
  if _has_weights(names):
    return ""
  inside = [
    p.parent.relative_to(folder).as_posix()
    for pattern in ("*/config.json", "snapshots/*/config.json")
    for p in folder.glob(pattern)
  ]
  if not inside:
    return ""
  shown = ", ".join(sorted(inside)[:5])
  return f"weights may lie one folder deeper: name {shown}"


def _llava(folder: Path, names: set[str]) -> str:
  """A checkpoint of PyTorch, where one of ours is wanted."""
  c = _json(folder / "config.json")
  if not _has_weights(names) or not ("model_type" in c or "architectures" in c):
    return ""
  kind = c.get("model_type") or c["architectures"]
  return (
    f"it is a checkpoint of PyTorch ({kind}): `{_CONVERT} {folder} MODEL` "
    "makes a model folder of it; name that"
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
)
