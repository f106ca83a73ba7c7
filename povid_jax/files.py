"""Files and folders that appear complete or not at all, and lenient JSON
reading.

Every JSON text of the project goes through `parse_json`; `decode_json` and the
readers of files turn every problem into one UserError with the file and the
place.
"""

import contextlib
import fcntl
import glob
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from povid_jax.errors import NO_ROOM, UserError


def _temporary(path: Path) -> Path:
  return path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
  """Locks a file or folder while this process lives; False: another process
  holds the lock.

  The operating system releases the lock when the process ends, even if it is
  killed.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    held = True
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # the lock is held, or the file system has no locks: do not remove anything
    except OSError:
      held = False
    yield held
  finally:
    os.close(descriptor)


def _sweep(path: Path) -> None:
  """Removes the temporary files that killed processes left while writing
  `path`.
  """
  for left in path.parent.glob(f".{glob.escape(path.name)}.tmp-" + "?" * 8):
    with contextlib.suppress(OSError), _held(left) as free:
      if free and left.is_dir():
        shutil.rmtree(left, ignore_errors=True)
      elif free:
        left.unlink(missing_ok=True)


Hook = Callable[[dict[str, Any]], Any]  # converts each JSON object


def parse_json(data: bytes | str, hook: Hook | None = None) -> Any:
  """Any JSON, in UTF-8 or UTF-16, with or without a byte order mark.

  Raises:
    ValueError: the text is not JSON, is nested too deeply, or has a number of
      too many digits.
  """
  try:
    return json.loads(data, object_hook=hook)
  except RecursionError as error:
    raise ValueError("nested too deep") from error


def as_read(value: Any) -> Any:
  """A value as it comes back from a JSON file: lists for tuples, text keys."""
  return json.loads(json.dumps(value))


def decode_json(text: str | bytes, where: str, hook: Hook | None = None) -> Any:
  """The value of a JSON text.

  Raises:
    UserError: the text is not JSON, is not UTF-8, is nested too deeply, or has
      a number of too many digits. The message begins with `where`.
  """
  try:
    return parse_json(text, hook)
  except UnicodeDecodeError as error:
    raise UserError(f"{where}: not UTF-8 at byte {error.start}") from error
  except ValueError as error:
    raise UserError(f"{where}: not JSON: {error}") from error


def read_text(path: str | Path) -> str:
  """A file's text without its byte order mark; UserError names the file."""
  try:
    return Path(path).read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(
      f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8"
    ) from error
  except OSError as error:
    raise UserError(f"{path}: {error.strerror or error}") from error


def load_json(path: str | Path, hook: Hook | None = None) -> Any:
  """The value of a JSON file; UserError names the file."""
  return decode_json(read_text(path), str(path), hook)


def text_lines(
  path: str | Path, torn: bool = False
) -> Iterator[tuple[int, str]]:
  """(number from 1, text) of each line that is not blank, read one by one.

  Only a line feed ends a line: JSON strings may hold the other line ends of
  Unicode.

  Args:
    torn: leave out a last line that ends inside a character.

  Raises:
    UserError: a byte is not valid UTF-8; the message names the file and the
      byte.
  """
  at = 0
  try:
    with open(path, "rb") as file:
      for number, line in enumerate(file, 1):
        try:
          text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
          if torn and not line.endswith(b"\n"):
            return
          raise UserError(
            f"{path}: not UTF-8 at byte {at + error.start}; save it as UTF-8"
          ) from error
        at += len(line)
        if text.strip():
          yield number, text
  except OSError as error:
    raise UserError(f"{path}: {error.strerror or error}") from error


def json_lines(
  path: str | Path, torn: bool = False
) -> Iterator[tuple[int, Any]]:
  """(number from 1, value) of each line of a JSON-lines file.

  Args:
    torn: leave out a last line that has no line end and is not JSON: a killed
      process was writing it.

  Raises:
    UserError: a line is not JSON; the message names the file and the line.
  """
  for number, text in text_lines(path, torn):
    try:
      yield number, decode_json(text, f"{path}, line {number}")
    except UserError:
      if torn and not text.endswith("\n"):
        return
      raise


def json_objects(
  path: str | Path, torn: bool = False
) -> Iterator[dict[str, Any]]:
  """The objects of a JSON-lines file; UserError for a line of another kind."""
  for number, row in json_lines(path, torn):
    if not isinstance(row, dict):
      raise UserError(f"{path}, line {number}: not a JSON object")
    yield row


def named_cells(row: dict[Any, Any], where: str) -> dict[str, Any]:
  """A row of a table without the cells beyond the named columns (key None).

  Raises:
    UserError: one of them holds something. A comma in a text without quotes
      makes two cells of it; the second would be lost.
  """
  beyond = row.pop(None, None)
  if beyond and any(beyond):
    raise UserError(
      f"{where}: {len(row) + len(beyond)} cells, but the first line names "
      f"{len(row)} columns; put a text that holds the separator into quotes"
    )
  return row


def cut_torn(path: Path) -> None:
  """Cuts off a last line that a killed process left without its line end."""
  with open(path, "r+b") as file:
    end = file.seek(0, os.SEEK_END)
    whole = end
    while whole:
      start = max(0, whole - (1 << 16))
      file.seek(start)
      found = file.read(whole - start).rfind(b"\n")
      if found >= 0:
        whole = start + found + 1
        break
      whole = start
    if whole < end:
      file.truncate(whole)


def read_json(path: Path, what: str) -> dict[str, Any]:
  """Reads a JSON object from a file; UserError names the file."""
  if not path.exists():
    raise UserError(f"file not found: {path} ({what})")
  try:
    value = load_json(path)
  except UserError as error:
    raise UserError(f"{error} ({what})") from error
  if not isinstance(value, dict):
    raise UserError(f"{path}: want a JSON object ({what})")
  return value


def ensure_parent(path: Path) -> None:
  """Makes the parent folder; raises UserError where that cannot be done."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"cannot write to {path.parent}: {error.strerror}; "
      "choose a folder you may write to"
    ) from error


def check_writable(path: str | Path) -> None:
  """Checks before the work, not after it, that a file can be written.

  Raises:
    UserError: a folder has its name, or its folder cannot be written to.
  """
  path = Path(path)
  ensure_parent(path)
  if path.is_dir():
    raise UserError(
      f"cannot write {path}: a folder has that name; choose the name of a file"
    )
  if not os.access(path.parent, os.W_OK):
    raise UserError(
      f"cannot write to {path.parent}: Permission denied; choose a folder you "
      "may write to"
    )


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
  """Turns an error of the operating system into a UserError; `errors.run`
  reports a full disk, in one place for all commands.
  """
  try:
    yield
  except OSError as error:
    if error.errno in NO_ROOM:
      raise
    raise UserError(f"cannot write {path}: {error.strerror}") from error


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
  """Opens a file that takes its name only when the block ends well.

  Raises:
    UserError: the folder cannot be written to, or a folder has the name.
  """
  path = Path(path)
  ensure_parent(path)
  _sweep(path)
  temporary = _temporary(path)
  encoding = None if "b" in mode else "utf-8"
  try:
    with _named(path):
      opened = open(temporary, mode, encoding=encoding)
    with opened as file, _held(temporary):
      yield file
      file.flush()
      os.fsync(file.fileno())
    with _named(path):
      os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: str | Path, durable: bool = False) -> Iterator[Path]:
  """Gives a temporary folder that is renamed to `path` when the block ends.

  Args:
    durable: whether every byte is on the disk, not in the system's memory,
      before the folder takes its name.

  Raises:
    UserError: `path` exists already, or its parent cannot be written to.
  """
  # a link must stay a link, so its target is written
  path = Path(os.path.realpath(path))
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise UserError(
      f"{path} exists already; remove it or choose another folder"
    )
  ensure_parent(path)
  _sweep(path)
  temporary = _temporary(path)
  try:
    with _named(path):
      temporary.mkdir()
    with _held(temporary):
      yield temporary
    if durable:
      _sync(temporary)
    with _named(path):
      if path.is_dir():
        path.rmdir()
      os.replace(temporary, path)
    if durable:
      _sync_one(path.parent)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _sync(folder: Path) -> None:
  """Flushes every file below a folder, and the folders' own entries."""
  for root, _, names in os.walk(folder):
    for name in names:
      _sync_one(Path(root) / name)
    _sync_one(Path(root))


def _sync_one(path: Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    # some file systems cannot flush a folder
    with contextlib.suppress(OSError):
      os.fsync(descriptor)
  finally:
    os.close(descriptor)
