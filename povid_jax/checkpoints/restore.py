"""Model folders and run directories: what is on disk, written and read.

A model folder holds frozen weights:

  model.json   dimensions, conversation template, image mode
  params/      Orbax checkpoint of the parameters
  tokenizer/   tokenizer.model or tokenizer.json

A run directory holds what a training run changed, and names what it started
from (which may be another run, so a chain of stages copies no weights):

  config.json            the whole training config, `init` with its step
  checkpoints/<step>/    Orbax: trained parameters, optimizer state, data
                         iterator, step
  metrics/train.jsonl

Every command accepts both kinds as a checkpoint: FOLDER, RUN or RUN@STEP.
"""

import dataclasses
import hashlib
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from povid_jax import files, folders
from povid_jax.checkpoints import arrays, checksums, model_json
from povid_jax.checkpoints.stream import (
  Pieces,
  open_pieces,
  save_pieces,
  whole,
)
from povid_jax.errors import UserError
from povid_jax.models import quantised
from povid_jax.models.config import LlavaConfig, LoraConfig
from povid_jax.models.params import (
  Params,
  abstract,
  check_shapes,
  merge_lora,
)


@dataclasses.dataclass(frozen=True)
class Weights:
  """A restored model: arrays by path, dimensions and conversation template.

  `params` hold lora_a / lora_b arrays when `lora` is not None.
  """

  config: LlavaConfig
  params: Params
  lora: LoraConfig | None
  template: str
  tokenizer: Path
  fingerprint: str

  def merged(self) -> "Weights":
    """The same model with its adapters folded into the kernels."""
    if self.lora is None:
      return self
    params = merge_lora(self.params, self.lora.scale)
    return dataclasses.replace(self, params=params, lora=None)


def save_model_folder(
  path: str | Path,
  config: LlavaConfig,
  params: Params,
  *,
  template: str,
  tokenizer: str | Path,
  notes: Mapping[str, str] | None = None,
) -> None:
  """Writes a model folder; it appears whole or not at all.

  Args:
    params: arrays by path, or `Pieces` that are made while they are written.
    tokenizer: folder that is copied.
    notes: texts of further files, by name.
  """
  pieces = {
    path: leaf if isinstance(leaf, Pieces) else whole(leaf)
    for path, leaf in params.items()
  }
  with files.atomic_dir(path, durable=True) as folder:
    shutil.copytree(tokenizer, folder / "tokenizer")
    sums = save_pieces(folder / "params", pieces)
    model_json.write(folder, config, template, sums)
    for name, text in (notes or {}).items():
      (folder / name).write_text(text, encoding="utf-8")


def split_spec(spec: str) -> tuple[Path, int | None]:
  """(path, step or None) of RUN@STEP or a plain path."""
  folder, at, step = spec.rpartition("@")
  if at and step.isdigit():
    return Path(folder), int(step)
  return Path(spec), None


def steps_of(run: Path) -> list[int]:
  """Steps of the complete checkpoints of a run, in order."""
  folder = run / "checkpoints"
  if not folder.is_dir():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def resolve(spec: str | Path) -> str:
  """FOLDER, or RUN@STEP with the step made explicit.

  Raises:
    UserError: the path does not exist, or is neither a model folder nor a run.
  """
  path, step = split_spec(str(spec))
  if not path.exists():
    raise UserError(
      f"no checkpoint at {path}; want a model folder (povid_jax.convert makes "
      f"one) or a run directory{folders.suffix(path)}"
    )
  if (path / "model.json").is_file():
    return str(path)
  steps = steps_of(path)
  if not steps:
    lies = folders.explain(path) or "run the stage before this one"
    raise UserError(
      f"{path} is neither a model folder (no model.json) nor a run with a "
      f"saved step (nothing in checkpoints/): {lies}"
    )
  if step is None:
    return f"{path}@{steps[-1]}"
  if step not in steps:
    raise UserError(f"{path} has no step {step}; it has {steps}")
  return f"{path}@{step}"


def fingerprint(spec: str | Path) -> str:
  """Hash of every byte that decides the model's outputs, as 16 hex digits.

  Raises:
    UserError: an array of a model folder differs from the one that was written.
  """
  spec = resolve(spec)
  path, step = split_spec(spec)
  digest = hashlib.sha256()
  if step is None:
    parts = [path / "model.json", path / "params", path / "tokenizer"]
  else:
    run = read_run(path)
    digest.update(fingerprint(init_of(path, run)).encode())
    parts = [path / "checkpoints" / str(step) / "params"]
  found = checksums.Sums()
  for part in parts:
    names = [part] if part.is_file() else sorted(part.rglob("*"))
    for name in names:
      # Orbax writes the time of the save into this one
      if name.is_file() and name.name != "_CHECKPOINT_METADATA":
        relative = name.relative_to(path).as_posix()
        crc = checksums.of_file(name)
        digest.update(f"{relative}:{crc}".encode())
        found.note(name.parent.name, name.name, crc)
  if step is None:
    checksums.compare(path, model_json.checksums(path), found.arrays())
  return digest.hexdigest()[:16]


def read_run(run: Path) -> dict[str, Any]:
  """A run's config.json; UserError where it is not what training wrote."""
  file = run / "config.json"
  held = files.read_json(file, "it must be the config that training wrote")
  kinds: dict[str, Any] = {
    "init": str, "lora": dict | None, "eval": dict, "steps": int,
    "total_steps": int, "base": str, "matmul": str, "dtype": str,
  }  # fmt: skip
  for name, kind in kinds.items():
    if name in held and not isinstance(held[name], kind):
      raise UserError(
        f"{file}: {name} is {held[name]!r:.80}; want the file as training "
        "wrote it"
      )
  if not held.get("init"):
    raise UserError(f"{file}: no `init` (what the run started from) in it")
  try:
    Path(held["init"]).exists()
  except OSError as error:
    raise UserError(f"{file}: init is not a path: {error.strerror}") from error
  return held


def init_of(run: Path, config: dict[str, Any]) -> str:
  """What a run started from; a path may be relative to a folder around it."""
  folder, step = split_spec(config["init"])
  around = run.absolute().parents[:4]
  places = (folder, *(up / folder for up in around), around[0] / folder.name)
  for found in places:
    if found.exists():
      return str(found) if step is None else f"{found}@{step}"
  return config["init"]


def load(
  spec: str | Path,
  shardings: Any = None,
  dtype: Any = None,
  keep: Callable[[str], bool] = lambda path: False,
  storage: str = "bf16",
) -> Weights:
  """Restores a model folder, or a run on top of what it started from.

  Args:
    spec: FOLDER, RUN or RUN@STEP.
    shardings: None (first device), or a function from a parameter path and
      shape to a jax.sharding.Sharding.
    dtype: the dtype that floating-point parameters are restored in; adapters
      stay float32. None: as stored.
    keep: paths that are restored as stored all the same (trained ones, whose
      small updates bfloat16 would lose).
    storage: how the kernels of a model folder are stored, see
      `quantised.kind_of`. Of a run they come unquantised, in the numbers of
      the kernels it trained on.

  Raises:
    UserError: there is nothing to load, or the folder is not complete.
  """
  spec = resolve(spec)
  path, step = split_spec(spec)
  if step is None:
    return _load_folder(path, shardings, dtype, keep, storage)
  run = read_run(path)
  start = load_base(spec, shardings, dtype, keep)
  folder = path / "checkpoints" / str(step) / "params"
  trained = arrays.restore(folder, shardings, dtype, keep)
  lora = LoraConfig.from_dict(run["lora"]) if run.get("lora") else None
  return dataclasses.replace(
    start,
    params={**start.params, **trained},
    lora=lora,
    fingerprint=fingerprint(spec),
  )


def load_base(
  spec: str | Path,
  shardings: Any = None,
  dtype: Any = None,
  keep: Callable[[str], bool] = lambda path: False,
) -> Weights:
  """What a run trained on, in whole kernels; arguments as of `load`."""
  path, _ = split_spec(resolve(spec))
  run = read_run(path)
  start = load(init_of(path, run), shardings, dtype, keep).merged()
  in_dtype = run.get("dtype", "bfloat16")
  params = quantised.rounded(start.params, quantised.kind_of(run), in_dtype)
  return dataclasses.replace(start, params=params)


def load_trained(
  spec: str | Path,
) -> tuple[Params, LoraConfig | None, str]:
  """What a run changed, alone.

  Returns:
    (trained parameters by path, its adapters' dimensions or None, the
    checkpoint that it started from).

  Raises:
    UserError: the path is a model folder, which contains no trained part.
  """
  spec = resolve(spec)
  path, step = split_spec(spec)
  if step is None:
    raise UserError(
      f"{path} is a model folder; want the directory of a training run"
    )
  run = read_run(path)
  folder = path / "checkpoints" / str(step) / "params"
  lora = LoraConfig.from_dict(run["lora"]) if run.get("lora") else None
  trained = arrays.restore(folder, None, None, lambda path: False)
  return trained, lora, init_of(path, run)


def open_chain(
  spec: str | Path,
) -> tuple[Weights, list[tuple[Params, LoraConfig | None]]]:
  """A checkpoint with its frozen weights left on disk.

  Returns:
    (the model folder at the bottom, its params `stream.Stored` arrays and no
    fingerprint; what each run on top of it trained, the first run first).

  Raises:
    UserError: the path does not exist, or the folder is not complete.
  """
  trained = []
  spec = resolve(spec)
  while not (Path(spec) / "model.json").is_file():
    params, lora, init = load_trained(spec)
    trained.insert(0, (params, lora))
    run = read_run(split_spec(spec)[0])
    if (kind := quantised.kind_of(run)) != "bf16":
      print(
        f"warning: {spec} was trained on kernels in {kind}, and what is "
        "written has its changes on the unquantised base: answers may differ",
        file=sys.stderr,
      )
    spec = resolve(init)
  folder = Path(spec)
  described = model_json.read(folder)
  params = open_pieces(folder / "params")
  fingerprint(folder)  # which compares the checksums
  # an export writes sizes first, so it would detect damage half-way or never
  check_shapes(str(folder), params, abstract(described.config)[1])
  weights = Weights(
    **described._asdict(),
    params=params,
    lora=None,
    tokenizer=folder / "tokenizer",
    fingerprint="",
  )
  return weights, trained


def describe(spec: str | Path) -> LlavaConfig:
  """The dimensions of a checkpoint, without reading its weights."""
  path, step = split_spec(resolve(spec))
  if step is not None:
    run = read_run(path)
    return describe(init_of(path, run))
  return model_json.read(path).config


def _load_folder(
  path: Path,
  shardings: Any,
  dtype: Any,
  keep: Callable[[str], bool],
  storage: str,
) -> Weights:
  described = model_json.read(path)
  return Weights(
    **described._asdict(),
    params=arrays.restore(path / "params", shardings, dtype, keep, storage),
    lora=None,
    tokenizer=path / "tokenizer",
    fingerprint=fingerprint(path),
  )
