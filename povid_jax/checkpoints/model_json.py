"""model.json of a model folder: its dimensions, and how to talk to it."""

import json
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from povid_jax import files
from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig

NAME = "model.json"
ImageMode = Literal["pad", "resize"]


class Described(NamedTuple):
  """What the file says."""

  config: LlavaConfig
  template: str
  image_mode: ImageMode


def read(folder: Path) -> Described:
  """Reads the file of a model folder.

  Raises:
    UserError: no file, or a field that is unknown or of another type.
  """
  file = folder / NAME
  values = files.read_json(file, "it holds the model's dimensions")
  template = values.pop("template", "vicuna_v1")
  mode = values.pop("image_mode", "pad")
  if mode not in get_args(ImageMode):
    raise UserError(f"{file}: image_mode is {mode!r}, want 'pad' or 'resize'")
  try:
    return Described(LlavaConfig.from_dict(values), template, mode)
  except UserError as error:
    raise UserError(f"{file}: {error}") from error


def write(
  folder: Path, config: LlavaConfig, template: str, image_mode: str
) -> None:
  """Writes the file into a folder that exists."""
  described = {
    **config.to_dict(),
    "template": template,
    "image_mode": image_mode,
  }
  (folder / NAME).write_text(json.dumps(described, indent=2))
