"""The training config: every field, its unit and meaning, and how it is set.

A config file (configs/*.py) has `get_config(variant)` that returns the fields
that define its run; all others are as in `default()`, or as in the file that
its BASE names. Fields on the command line (`--config.lr=1e-6`) override both.
An unknown field is an error that names the nearest valid field; a value of the
wrong type is an error that names the expected type.
"""

import ast
import importlib.util
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from povid_jax import bounds, folders
from povid_jax.errors import UserError

# where pip puts the files of configs/ (pyproject.toml, data-files)
INSTALLED = Path(sys.prefix) / "share" / "povid_jax" / "configs"


def default() -> ConfigDict:
  """All fields. Lengths are in tokens, images included."""
  c = ConfigDict()
  # model folder, RUN or RUN@STEP from which the run starts
  c.init = ""
  c.seed = 0  # seed of the data order, the noise and new adapters

  # --- data ---
  c.data = ConfigDict()
  c.data.train = ""  # directory written by `data_gen write`
  c.data.split = "train"  # split of the records
  c.data.max_prefix = 0  # longest prefix, tokens; 0: as in the data
  c.data.max_branch = 0  # longest answer, tokens; 0: as in the data
  c.data.buckets = 3  # most bucket lengths, each for prefix and answer
  c.data.bucket_multiple = 32  # bucket lengths are multiples of this
  # refuse | drop (the ids are listed in both cases)
  c.data.on_too_long = "refuse"
  c.data.on_bad_sample = "raise"  # raise | skip (the ids are written to a file)
  c.data.workers = 0  # processes that read data; 0: only threads
  # weight of words that only one of the two answers has (DDPO); 1: equal
  # weights
  c.data.changed_weight = 1.0
  c.data.limit = 0  # use only the first N records; 0: all

  # --- objective and noise ---
  c.objective = ConfigDict()
  c.objective.name = "povid"  # a name in povid_jax/objectives
  # hyper-parameters of the objective, for example {"beta": 0.1}
  c.objective.hyper = ConfigDict()
  c.noise = ConfigDict()
  c.noise.step = 500  # diffusion step, 0..999
  c.noise.tokens = "argmax"  # argmax | argmax_exclude_gold
  c.noise.overflow = "wrap"  # wrap (as released) | clip
  c.noise.site = "image"  # image (raw picture, as released) | pixels (VCD)
  c.noise.per_epoch = True  # new noise in each epoch; False: fixed per sample
  # online (adapter off, or the initial weights) | cached (log-probs computed
  # for all data before step 0: faster from two epochs or two runs on the same
  # data on; for one epoch this pass takes about as long as it saves)
  c.reference = "online"
  # folder of the cached log-probs; "": WORKDIR/reference
  c.reference_cache = ""

  # --- trained parameters ---
  # lora | decoder (whole) | all | a regex on parameter paths
  c.trainable = "lora"
  c.lora = ConfigDict()
  c.lora.rank = 128
  c.lora.alpha = 256.0  # output scale alpha / rank
  c.lora.targets = (
    r"decoder/layers/(self_attn/[qkvo]_proj|mlp/(gate|up|down)_proj)$"
  )
  # PEFT folder whose adapters are trained further (the reference is init
  # without them); "": new adapters. rank, alpha and targets must be those of
  # the folder
  c.adapter = ""
  c.projector_lr = 0.0  # peak learning rate of the projector; 0 freezes it

  # --- optimizer ---
  c.lr = 1e-7  # peak learning rate
  c.schedule = "cosine"  # cosine | linear | constant
  c.warmup_ratio = 0.03  # share of all steps
  c.warmup_steps = -1  # number of steps; -1: use warmup_ratio
  c.weight_decay = 0.0
  c.b1 = 0.9
  c.b2 = 0.999
  c.eps = 1e-8
  c.clip_norm = 0.0  # global gradient norm; 0 does not clip
  c.batch_size = 1  # pairs per step, all devices together
  c.grad_accum = 1  # microbatches per step
  # passes over the data; with more than one, each epoch draws new noise
  # (noise.per_epoch), which a cached reference cannot hold
  c.epochs = 1.0
  c.steps = 0  # optimizer steps; 0: use epochs
  # on NaN or infinity: raise | skip (skipped steps are counted)
  c.on_nonfinite = "raise"

  # --- arithmetic ---
  c.dtype = "bfloat16"  # dtype of activations and frozen weights
  # how kernels of frozen layers are stored: bf16 (as dtype) | int8 | nf4
  c.base = "bf16"
  # how the decoder multiplies by frozen kernels: bf16 (as dtype) | int8 | fp8
  # (faster on chips that have such products, if less exact)
  c.matmul = "bf16"
  c.attention = "auto"  # auto | xla | cudnn | splash
  # what layers keep for the backward pass, from the least to the most memory:
  # full | attention | mlp | dots | none
  c.remat = "full"
  c.head_chunk = 256  # rows of logits on a device at one time
  c.share_prefix = True  # False: compute image and question once per answer
  c.mesh = ConfigDict()
  c.mesh.data = 1  # copies of the parameters; -1 uses all remaining devices
  c.mesh.fsdp = -1  # devices over which parameters and batch are cut
  c.mesh.tensor = 1  # devices over which each layer is cut

  # --- checkpoints, logs, evaluation ---
  c.checkpoint = ConfigDict()
  c.checkpoint.every = 200  # steps; 0: only at the end
  c.checkpoint.keep = 1  # number of newest checkpoints to keep
  c.checkpoint.best = ""  # metric; its best checkpoint is also kept
  c.checkpoint.best_mode = "min"  # min | max
  c.log = ConfigDict()
  c.log.every = 10  # steps between printed lines; 0: none
  c.log.tensorboard = True
  c.log.samples = 0  # steps between sample answers; 0: none
  c.log.wandb = ""  # name of the W&B project; "": none
  c.log.profile_steps = 0  # steps to trace, after the first ten
  c.eval = ConfigDict()
  c.eval.every = 0  # steps; 0: only at the end
  c.eval.benchmarks = ""  # names as in povid_jax.eval, comma-separated
  c.eval.data = ""  # data folder of these benchmarks
  c.eval.images = ""  # folder of the pictures; "": in eval.data
  # name of the judge for mmhal, mmvet and llava_bench, and its server
  c.eval.judge = ""
  c.eval.judge_base_url = ""  # "": OpenAI's
  c.eval.limit = 0  # questions per benchmark; 0: all
  c.eval.patience = 0  # stop after N evaluations without a new best
  return c


def flat_fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
  """{'data.train': value, ...}; free dicts (objective.hyper) stay whole."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    path = f"{prefix}{name}"
    if isinstance(value, ConfigDict) and path != "objective.hyper":
      flat.update(flat_fields(value, f"{path}."))
    else:
      flat[path] = value
  return flat


def _typed(path: str, value: Any, wanted: Any) -> Any:
  kind = type(wanted)
  if kind is bool and isinstance(value, str):
    lowered = value.lower()
    if lowered in ("true", "1", "yes", "false", "0", "no"):
      return lowered in ("true", "1", "yes")
  elif kind is str and isinstance(value, str):
    return value
  elif kind in (int, float) and not isinstance(value, bool):
    number = _number(value)
    if number is not None and (kind is float or number == int(number)):
      return kind(number)
  elif type(value) is kind:  # True is an int to isinstance
    return value
  raise UserError(f"config.{path}: want {_KINDS[kind]}, got {_short(value)}")


_KINDS = {
  int: "a whole number",
  float: "a finite number",
  str: "a text",
  bool: "True or False",
}


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:57]}..."


def _number(value: Any) -> int | float | None:
  """A finite number; whole ones exactly, however many digits they have."""
  if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,30}\s*", value):
    return int(value)
  if isinstance(value, int):
    return value if abs(value) < 10**30 else None
  try:
    number = float(value)
  except (TypeError, ValueError, OverflowError):
    return None
  return number if math.isfinite(number) else None


def set_field(config: ConfigDict, path: str, value: Any) -> None:
  """Sets one field by its dotted path.

  Raises:
    UserError: the field does not exist (the error names the nearest one), or
      the value has the wrong type.
  """
  if path.startswith("objective.hyper."):
    name = path.removeprefix("objective.hyper.")
    with config.unlocked():
      config.objective.hyper[name] = _literal(value)
    return
  fields = flat_fields(config)
  if path not in fields:
    near = bounds.nearest(path, list(fields))
    raise UserError(
      f"config has no field {path!r}; did you mean {near!r}? "
      "(--help lists them all)"
    )
  *folders, name = path.split(".")
  node = config
  for folder in folders:
    node = node[folder]
  node[name] = _typed(path, value, fields[path])


def _literal(value: Any) -> Any:
  if not isinstance(value, str):
    return value
  try:
    return ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return {"true": True, "false": False}.get(value.lower(), value)


def load(spec: str, overrides: Sequence[tuple[str, Any]] = ()) -> ConfigDict:
  """The whole config of FILE[:VARIANT], with overrides, locked.

  Raises:
    UserError: the file, the variant or a field does not exist.
  """
  folders.refuse_remote({"config": spec})
  path, _, variant = spec.partition(":")
  config = default()
  for stated in _read_file(Path(path), variant):
    for name, value in flat_fields(stated).items():
      if name == "objective.hyper":
        for key, item in value.items():
          set_field(config, f"{name}.{key}", item)
      else:
        set_field(config, name, value)
  for name, value in overrides:
    set_field(config, name, value)
  return config.lock()


def check(config: ConfigDict, skip: Sequence[str] = ()) -> None:
  """Raises UserError for the first field whose value `bounds` does not allow.

  Args:
    skip: fields that are not checked.
  """
  bounds.check(flat_fields(config), skip.__contains__)


def _read_file(path: Path, variant: str) -> list[ConfigDict]:
  """The fields that a file sets, on top of those of the file in its BASE.

  The base is read with the same variant if it has one of that name, and without
  a variant otherwise.
  """
  path, module = _import(path)
  variants = getattr(module, "VARIANTS", ())
  if variant and variant not in variants:
    raise UserError(
      f"{path} has no variant {variant!r}; it has {list(variants)}"
    )
  below: list[ConfigDict] = []
  if base := getattr(module, "BASE", ""):
    shared = getattr(_import(path.parent / base)[1], "VARIANTS", ())
    below = _read_file(path.parent / base, variant if variant in shared else "")
  try:
    stated = module.get_config(variant) if variant else module.get_config()
  except Exception as error:
    raise UserError(f"{path}: get_config failed: {error!r}") from error
  return [*below, stated]


def _import(path: Path) -> tuple[Path, Any]:
  """(path of the file, its module); the installed file if there is none."""
  if not path.is_file() and (INSTALLED / path.name).is_file():
    path = INSTALLED / path.name
  if not path.is_file():
    raise UserError(
      f"no config file {path}; the project's config files are in configs/ of "
      f"the repository and, after pip install, in {INSTALLED}"
    )
  if path.suffix != ".py":
    raise UserError(
      f"{path} is not a config file of this project: want a Python file with "
      "get_config(), like those in configs/; set single fields with "
      "--config.NAME=VALUE"
    )
  module_spec = importlib.util.spec_from_file_location(path.stem, path)
  assert module_spec is not None and module_spec.loader is not None
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
  except Exception as error:
    raise UserError(f"{path} cannot be loaded: {error!r}") from error
  if not hasattr(module, "get_config"):
    raise UserError(
      f"{path} has no function get_config(variant); see the files in configs/"
    )
  return path, module


def take_overrides(
  arguments: Sequence[str],
) -> tuple[list[tuple[str, str]], list[str]]:
  """Splits `--config.a.b=value` (or `--config.a.b value`) from the rest."""
  overrides, rest = [], []
  items = iter(arguments)
  for item in items:
    if not item.startswith("--config."):
      rest.append(item)
      continue
    name, equals, value = item.removeprefix("--config.").partition("=")
    if not equals:
      value = next(items, "")
    overrides.append((name, value))
  return overrides, rest


def to_json(config: ConfigDict) -> str:
  return json.dumps(config.to_dict(), indent=2)


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  """A plain nested dict by dotted path."""
  out: dict[str, Any] = {}
  for name, value in nested.items():
    if isinstance(value, dict):
      out.update(flat(value, f"{prefix}{name}."))
    else:
      out[f"{prefix}{name}"] = value
  return out
