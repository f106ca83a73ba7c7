"""model.json of a model folder: dimensions, conversation template, image
mode.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from povid_jax import files
from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig

NAME = "model.json"
_SUMS = "crc32c"  # array -> checksum, see `checksums`


class Described(NamedTuple):
  """What the file says."""

  config: LlavaConfig
  template: str


def read(folder: Path) -> Described:
  """Reads the file of a model folder.

  Raises:
    UserError: the file is missing, or a field is unknown or of the wrong type.
  """
  file = folder / NAME
  values = files.read_json(file, "it holds the model's dimensions")
  values.pop(_SUMS, None)
  template = values.pop("template", "vicuna_v1")
  # older folders, from before there was more than one layout
  if "layout" not in values:
    values["layout"] = {"mode": values.pop("image_mode", "pad")}
  try:
    return Described(LlavaConfig.from_dict(values), template)
  except UserError as error:
    raise UserError(f"{file}: {error}") from error


def checksums(folder: Path) -> dict[str, str]:
  """The checksum of each array; {} for a folder from before there were any."""
  values = files.read_json(folder / NAME, "it holds the model's dimensions")
  sums = values.get(_SUMS, {})
  if not isinstance(sums, dict):
    raise UserError(
      f"{folder / NAME}: {_SUMS} is {sums!r:.80}, want the checksum of each "
      "array by its name"
    )
  return sums


def write(
  folder: Path, config: LlavaConfig, template: str, sums: Mapping[str, str]
) -> None:
  """Writes the file into a folder that exists.

  Args:
    sums: of the arrays, as `save_pieces` returns them.
  """
  described = {**config.to_dict(), "template": template, _SUMS: dict(sums)}
  (folder / NAME).write_text(json.dumps(described, indent=2))
