"""Checks the model, the data and the packages of a config before a run
starts.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from povid_jax.checkpoints import restore
from povid_jax.errors import UserError
from povid_jax.training import workdir as workdir_lib


def check(config: ConfigDict, workdir: str | Path) -> None:
  """Raises UserError with the command that makes what is missing or wrong."""
  restore.resolve(config.init)
  _check_data(config.data.train)
  _check_packages(config)
  _check_reference_cache(config.reference_cache)
  workdir_lib.check_ended(config.init)
  path = Path(workdir)
  if path.exists() and not path.is_dir():
    raise UserError(f"--workdir={workdir} is a file; give a folder")
  if (path / "model.json").is_file():
    raise UserError(
      f"--workdir={workdir} is a model folder; give a new folder for the run"
    )


def _check_data(train: str) -> None:
  path = Path(train)
  if path.suffix in (".json", ".jsonl", ".parquet") and path.is_file():
    raise UserError(
      f"config.data.train={train} is a file of pairs; training reads records. "
      f"Write them with `python -m data_gen write --pairs {train} --image-dir "
      "PICTURES --out DIR`, then --config.data.train=DIR"
    )
  pairs = sorted(path.glob("*.json*")) if path.is_dir() else []
  pairs = [p for p in pairs if p.name not in ("dataset_info.json",
           "features.json")]  # fmt: skip
  if pairs and not any(path.glob("*.tfrecord*")):
    _check_data(str(pairs[0]))


def _check_packages(config: ConfigDict) -> None:
  for field, wanted, package, command in (
    (
      "log.wandb",
      config.log.wandb,
      "wandb",
      "pip install 'povid_jax[wandb]'",
    ),
    (
      "log.tensorboard",
      config.log.tensorboard,
      "tensorboardX",
      "pip install tensorboardX",
    ),
  ):
    if wanted and importlib.util.find_spec(package) is None:
      raise UserError(
        f"config.{field} needs the package {package}, which is not installed: "
        f"{command}, or leave this field empty"
      )


def _check_reference_cache(folder: str) -> None:
  """Refuses now a folder with other files, which would fail only after the
  pass.
  """
  path = Path(folder)
  if not folder or not path.exists():
    return
  if not path.is_dir() or (
    any(path.iterdir()) and not (path / "key.json").is_file()
  ):
    raise UserError(
      f"config.reference_cache={folder} holds other files than cached "
      "log-probs; choose an empty or new folder"
    )
