"""Verifies objects with any program: a detector or a service.

The command is started once for every batch of pictures. It reads JSON lines

    {"image": "/path/of/a.jpg", "objects": ["dog", "frisbee"]}

from its standard input and prints, for each of them and in any order,

    {"image": "/path/of/a.jpg", "present": ["dog"], "absent": ["frisbee"]}

Objects in neither list are uncertain. What it prints to standard error is
shown.
"""

import argparse
import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_gen.verify.base import Asked, Presence, Setting, Verifier
from povid_jax import files
from povid_jax.data.pairs import save_picture
from povid_jax.data.picture import Picture
from povid_jax.errors import UserError


class CommandVerifier(Verifier):
  """See the module's text."""

  name = "command"

  def __init__(self, setting: Setting):
    super().__init__(setting)
    self._command = setting.args.verify_command
    if not self._command:
      raise UserError('--verify=command needs --verify-command "PROGRAM ..."')

  @staticmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
      "--verify-command",
      metavar="COMMAND",
      help="program that reports which objects are in pictures: JSON lines "
      "{image, objects} in, {image, present, absent} out",
    )

  def settings(self) -> dict[str, Any]:
    return {"command": self._command}

  def present(self, asked: Sequence[Asked]) -> list[Presence]:
    paths = [self._path(a.picture) for a in asked]
    rows = [
      {"image": path, "objects": list(a.objects)}
      for path, a in zip(paths, asked, strict=True)
    ]
    try:
      done = subprocess.run(
        shlex.split(self._command),
        input="".join(json.dumps(row) + "\n" for row in rows),
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        check=True,
      )
    except (OSError, ValueError) as error:
      raise UserError(
        f"--verify-command: the program cannot be run: {error}"
      ) from error
    except subprocess.CalledProcessError as error:
      raise UserError(
        f"--verify-command ended with code {error.returncode} (its messages "
        "are above); run the same command again to continue"
      ) from error
    found: dict[str, Any] = {}
    for line in filter(str.strip, done.stdout.split("\n")):
      try:
        row = files.parse_json(line)
        found[row["image"]] = set(row["present"]), set(row["absent"])
      except (ValueError, TypeError, KeyError) as error:
        raise UserError(
          f"--verify-command printed {line[:80]!r}; want JSON lines "
          "{image, present, absent}"
        ) from error
    missing = [path for path in paths if path not in found]
    if missing:
      raise UserError(
        f"--verify-command printed nothing about {missing[0]}; want one line "
        "for each picture that it receives"
      )
    return [
      {o: _verdict(o, *found[path]) for o in a.objects}
      for path, a in zip(paths, asked, strict=True)
    ]

  def _path(self, picture: Picture) -> str:
    """The picture's file; one out of a table is written beside the output."""
    if picture.is_file and picture.folder is not None:
      return str(Path(picture.folder) / picture.name)
    stem = self.setting.logs
    return self._path(
      save_picture(picture, stem.with_name(f"{stem.name}.images"))
    )


def _verdict(name: str, present: set[str], absent: set[str]) -> bool | None:
  if (name in present) == (name in absent):
    return None
  return name in present
