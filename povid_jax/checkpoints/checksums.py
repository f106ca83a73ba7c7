"""CRC-32C of each array of a model folder, kept in its model.json.

An array is a folder of files, one for each layer. Its checksum is that of the
lines "name:checksum" of these files in the order of their names. A loader sums
up the files anyway, for the fingerprint of the model: comparing costs nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c

from povid_jax.errors import UserError


def _of(data: bytes) -> str:
  return google_crc32c.Checksum(data).hexdigest().decode()


def of_file(path: Path) -> str:
  """CRC-32C of a file as 8 hex digits."""
  crc = google_crc32c.Checksum()
  with open(path, "rb") as file:
    while block := file.read(1 << 22):
      crc.update(block)
  return crc.hexdigest().decode()


class Sums:
  """Collects the checksums of files by array."""

  def __init__(self) -> None:
    self._files: dict[str, dict[str, str]] = {}

  def add(self, array: str, name: str, values: Any) -> None:
    """Sums up the bytes of a contiguous numpy array."""
    self.note(array, name, _of(values.tobytes()))

  def note(self, array: str, name: str, crc: str) -> None:
    """Takes the checksum of a file; files of metadata are left out."""
    if name[:1].isdigit():
      self._files.setdefault(array, {})[name] = crc

  def arrays(self) -> dict[str, str]:
    """Array (its folder's name) -> checksum."""
    return {
      array: _of(
        "\n".join(f"{n}:{c}" for n, c in sorted(held.items())).encode()
      )
      for array, held in sorted(self._files.items())
    }


def compare(
  folder: Path, wanted: Mapping[str, str], found: Mapping[str, str]
) -> None:
  """Raises UserError for arrays that are not as they were written.

  Args:
    wanted: of every array; {} for a folder that has no checksums.
  """
  names = sorted({*wanted, *found}) if wanted else []
  wrong = [name for name in names if found.get(name) != wanted.get(name)]
  if wrong:
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    first = wrong[0].replace(".", "/")
    raise UserError(
      f"{folder}: the weights of {first}{more} are damaged "
      "(their checksum is not the one in model.json): convert the checkpoint "
      "again, or copy the folder again"
    )
