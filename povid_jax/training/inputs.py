"""Checks the model, the data and the packages of a config before a run
starts.
"""

import importlib.util
import re
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


# what lies beside pairs and is none, of a run of data_gen or of records
_BESIDE = re.compile(
  r"(.*\.)?(journal|rejected|skipped|summary|dataset_info|features|povid)"
  r"\.jsonl?"
)


def _check_data(train: str) -> None:
  path = Path(train)
  if path.is_file() and path.suffix in (".json", ".jsonl", ".parquet"):
    raise UserError(
      f"config.data.train={train} is a file of pairs{_write(path)}"
    )
  if not path.is_dir() or any(path.glob("*.tfrecord*")):
    return
  if inner := sorted(path.glob("*/dataset_info.json")):
    raise UserError(
      f"config.data.train={train} has no records itself, but a folder of them: "
      f"give --config.data.train={inner[0].parent}"
    )
  pairs = [p for p in path.glob("*.json*") if not _BESIDE.fullmatch(p.name)]
  if pairs:
    raise UserError(
      f"config.data.train={train} has no records, but pairs{_write(min(pairs))}"
    )


def _write(pairs: Path) -> str:
  return (
    f"; training reads records. Write them with `python -m data_gen write "
    f"--pairs {pairs} --image-dir PICTURES --out DIR`, then "
    "--config.data.train=DIR"
  )


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
