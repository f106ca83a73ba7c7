"""Finds the pictures that rows and samples name."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from povid_jax.data.picture import resolve_image
from povid_jax.errors import UserError
from povid_jax.files import load_json


class Pictures:
  """Finds a picture by the name or the image id that a row gives."""

  def __init__(self, roots: Sequence[Path]):
    self._roots = [Path(root) for root in roots]
    self._folders: list[Path] | None = None
    self._files: dict[str, Path] = {}

  def find(self, name: str) -> Path | None:
    """The file of a name such as test/000001.jpg, or None.

    Only inside the folders of pictures: an absolute name counts where it leads
    into one of them.
    """
    for folder in self._all():
      within = name
      if os.path.isabs(name):
        within = os.path.relpath(name, os.path.abspath(folder))
      with contextlib.suppress(UserError):
        return resolve_image(folder, within)
    return None

  def of_row(self, key: str, row: dict[str, Any]) -> Path | None:
    """The picture of an answer row: by its own fields, else by image id."""
    metadata = row.get("metadata") or {}
    names = [row.get("image"), metadata.get("image")]
    for many in (row.get("images"), metadata.get("images")):
      names += many if isinstance(many, list) else []
    for name in [*names, key]:
      if isinstance(name, str) and (path := self.find(name)):
        return path
    self._all()
    return self._files.get(key)

  def _all(self) -> list[Path]:
    """Folders that hold pictures; annotations beside them are read once."""
    if self._folders is None:
      self._folders = list(self._roots)
      for root in self._roots:
        for pattern in ("images", "*/images", "*/*/images"):
          self._folders += sorted(p for p in root.glob(pattern) if p.is_dir())
        for depth in ("", "*/", "*/*/", "*/*/*/"):
          for path in sorted(root.glob(f"{depth}instances_*.json")):
            self._add_annotations(path)
    return self._folders

  def _add_annotations(self, path: Path) -> None:
    for image in load_json(path).get("images", []):
      for folder in (path.parent.parent / "images", path.parent):
        with contextlib.suppress(UserError):
          file = resolve_image(folder, image["file_name"])
          self._files.setdefault(str(image["id"]), file)
          break
