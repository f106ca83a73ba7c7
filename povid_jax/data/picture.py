"""A sample's picture, in a file, in a table or in memory."""

import argparse
import dataclasses
import os
from pathlib import Path

from povid_jax.errors import UserError

MAX_IMAGE_BYTES = 256 << 20
# An environment variable, so that child processes inherit it.
_FOLLOW = "POVID_FOLLOW_LINKS"


class _FollowLinks(argparse.Action):
  """Allows links out of a picture folder, in this process and its children."""

  def __call__(self, *_) -> None:
    os.environ[_FOLLOW] = "1"


def add_follow_links(parser: argparse._ActionsContainer) -> None:
  """Adds the flag --follow-links, for every command with a picture folder."""
  parser.add_argument(
    "--follow-links",
    action=_FollowLinks,
    nargs=0,
    help="also read pictures that are links to files outside the picture "
    "folder",
  )


@dataclasses.dataclass(frozen=True)
class Cell:
  """A place in a table: `column` of `row` in the file `path`.

  Attributes:
    path: a .parquet or .arrow file.
    column: of the bytes, as in "image" or "images".
    row: number in the file, from 0.
    item: number in the cell's list, from 0; None where the cell is no list.
  """

  path: str
  column: str
  row: int
  item: int | None = None


@dataclasses.dataclass(frozen=True)
class Picture:
  """A named picture: a file of a folder, a cell of a table, or bytes.

  Attributes:
    name: as the data names it; messages and written JSON use it.
    folder: in which a file of this name lies, None where none was given. May
      be a folder of a Beam filesystem ("gs://...").
    cell: where a table holds the bytes; without bytes there, the file counts.
    data: the encoded picture itself.
  """

  name: str
  folder: str | None = None
  cell: Cell | None = None
  data: bytes | None = dataclasses.field(default=None, repr=False)

  def __str__(self) -> str:
    return self.name

  @property
  def key(self) -> str:
    """Equal for equal pictures, as far as names tell."""
    if self.cell is None:
      return self.name
    return f"{self.cell.path}\0{self.cell.row}\0{self.cell.item}"

  @property
  def is_file(self) -> bool:
    """Whether the picture lies in a file of its own, not in a table."""
    return self.cell is None and self.data is None

  def read(self) -> bytes:
    """The encoded picture.

    Raises:
      UserError: see `resolve_image`; a picture over 256 MiB; a name without
        a folder.
    """
    if self.data is not None:
      return self.data
    if self.cell is not None:
      from povid_jax.data import tables  # pyarrow, an extra

      if (data := tables.read_cell(self.cell)) is not None:
        return data
    label = f"image {self.name[:200]!r}"
    if self.folder is None:
      raise self._no_folder()
    try:
      if "://" in self.folder:
        return _read_remote(self.folder, self.name)
      path = resolve_image(self.folder, self.name)
      if path.stat().st_size > MAX_IMAGE_BYTES:
        raise UserError(f"{label}: over {MAX_IMAGE_BYTES >> 20} MiB")
      return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no such filesystem
      raise UserError(f"{label}: {error}") from error

  def check(self) -> None:
    """Raises the error of `read` for a missing file, without reading."""
    if not self.is_file or "://" in (self.folder or ""):
      return
    if self.folder is None:
      raise self._no_folder()
    resolve_image(self.folder, self.name)

  def _no_folder(self) -> UserError:
    return UserError(
      f"image {self.name[:200]!r}: --image-dir is missing; give the folder "
      "that contains the picture"
    )


def _read_remote(folder: str, name: str) -> bytes:
  try:
    from apache_beam.io.filesystems import FileSystems
  except ImportError as error:
    raise UserError(
      f"pictures in {folder} are read by Beam: pip install 'povid_jax[beam]', "
      "or copy them here, or mount the bucket (gcsfuse, s3fs)"
    ) from error

  if name.startswith("/") or ".." in name.split("/") or "://" in name:
    raise UserError(f"image {name!r}: want a name inside {folder}")
  with FileSystems.open(FileSystems.join(folder, name)) as file:
    data = file.read(MAX_IMAGE_BYTES + 1)
  if len(data) > MAX_IMAGE_BYTES:
    raise UserError(f"image {name!r}: over {MAX_IMAGE_BYTES >> 20} MiB")
  return data


def in_folder(folder: str | Path, name: str) -> Path:
  """The path of a picture name inside a folder; the one rule for every command.

  The file need not be there.

  Raises:
    UserError: the name is absolute, contains "..", or is a link that leaves the
      folder while links are not followed.
  """
  if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
    raise UserError(f"image {name!r:.60}: want a name inside {folder}")
  label = repr(name[:200])
  parts = Path(name).parts
  if not parts or os.path.isabs(name) or ".." in parts or "\0" in name:
    raise UserError(f"image {label}: want a name inside {folder}")
  try:
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, name))
  except (OSError, ValueError) as error:
    raise UserError(f"image {label}: {error}") from error
  inside = path.startswith(os.path.join(root, ""))
  if not inside and os.environ.get(_FOLLOW) != "1":
    raise UserError(
      f"image {label}: a link that leaves {folder}; to allow it, give "
      f"--follow-links (in training, set {_FOLLOW}=1 in the environment)"
    )
  return Path(folder) / name


def resolve_image(image_dir: str | Path, name: str) -> Path:
  """The path of an existing picture inside `image_dir`.

  Raises:
    UserError: see `in_folder`; no such file.
  """
  path = in_folder(image_dir, name)
  try:
    if not path.is_file():
      raise UserError(f"image {name[:200]!r}: no such file in {image_dir}")
  except (OSError, ValueError) as error:
    raise UserError(f"image {name[:200]!r}: {error}") from error
  return path
