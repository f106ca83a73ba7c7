"""One table as an .xlsx file: five small XML parts in a zip archive."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from povid_jax.errors import UserError
from povid_jax.files import atomic_write

Cell = str | int | float | None

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
# characters that XML 1.0 cannot hold
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")

_PARTS = {
  "[Content_Types].xml": (
    f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType='
    '"application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>'
    '<Override PartName="/xl/workbook.xml" '
    f'ContentType="{_TYPE}.sheet.main+xml"/>'
    '<Override PartName="/xl/worksheets/sheet1.xml" '
    f'ContentType="{_TYPE}.worksheet+xml"/></Types>'
  ),
  "_rels/.rels": (
    f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" '
    'Target="xl/workbook.xml"/></Relationships>'
  ),
  "xl/workbook.xml": (
    f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
    '<sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>'
  ),
  "xl/_rels/workbook.xml.rels": (
    f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" '
    'Target="worksheets/sheet1.xml"/></Relationships>'
  ),
}


def write_xlsx(path: Path, table: Sequence[Sequence[Cell]]) -> None:
  """Writes rows of cells; None is an empty cell, numbers stay numbers."""
  rows = "".join(
    f'<row r="{r}">'
    + "".join(_cell(r, c, cell) for c, cell in enumerate(row))
    + "</row>"
    for r, row in enumerate(table, 1)
  )
  sheet = (
    f'<worksheet xmlns="{_MAIN}"><sheetData>{rows}</sheetData></worksheet>'
  )
  with (
    atomic_write(path, "wb") as file,
    zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
  ):
    for name, xml in {**_PARTS, "xl/worksheets/sheet1.xml": sheet}.items():
      archive.writestr(name, _HEAD + xml)


def _column(index: int) -> str:
  """0 -> A, 25 -> Z, 26 -> AA."""
  name, index = "", index + 1
  while index:
    index, rest = divmod(index - 1, 26)
    name = chr(65 + rest) + name
  return name


def _cell(row: int, column: int, value: Cell) -> str:
  place = f"{_column(column)}{row}"
  if value is None:
    return ""
  if isinstance(value, int | float):
    return f'<c r="{place}"><v>{value}</v></c>'
  text = escape(_FORBIDDEN.sub("", value))
  return (
    f'<c r="{place}" t="inlineStr"><is>'
    f'<t xml:space="preserve">{text}</t></is></c>'
  )


_MAX_PART = 1 << 30  # bytes of one part, unpacked


def read_xlsx(path: Path) -> list[list[str]]:
  """The cells of the first sheet as text; "" for empty ones.

  Raises:
    UserError: names the file that is none, or that is too large.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      shared = [_words(item) for item in _part(archive, "xl/sharedStrings.xml")]
      sheets = sorted(n for n in archive.namelist() if _SHEET.fullmatch(n))
      if not sheets:
        raise ValueError("no sheet in it")
      rows = _part(archive, sheets[0]).iter(f"{{{_MAIN}}}row")
      return [_cells(row, shared) for row in rows]
  except (OSError, ValueError, KeyError, IndexError) as error:
    raise UserError(f"{path}: not a readable .xlsx table: {error}") from error
  except (zipfile.BadZipFile, ElementTree.ParseError) as error:
    raise UserError(f"{path}: not a readable .xlsx table: {error}") from error


_SHEET = re.compile(r"xl/worksheets/sheet\d+\.xml")


def _part(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
  if name not in archive.namelist():
    return ElementTree.Element("none")
  if archive.getinfo(name).file_size > _MAX_PART:
    raise ValueError(f"{name} is too large")
  data = archive.read(name)
  if b"<!DOCTYPE" in data[:2000]:  # entities that grow without bound
    raise ValueError(f"{name} declares a document type")
  return ElementTree.fromstring(data)


def _words(item: ElementTree.Element) -> str:
  return "".join(part.text or "" for part in item.iter(f"{{{_MAIN}}}t"))


def _place(reference: str) -> int:
  """0 of "A7", 27 of "AB7"."""
  number = 0
  for letter in reference.rstrip("0123456789"):
    number = number * 26 + ord(letter) - ord("A") + 1
  return number - 1


def _cells(row: ElementTree.Element, shared: list[str]) -> list[str]:
  out: list[str] = []
  for cell in row.iter(f"{{{_MAIN}}}c"):
    place = _place(cell.get("r") or "") if cell.get("r") else len(out)
    if not 0 <= place < 16384:
      raise ValueError(f"a cell {cell.get('r')!r}")
    out += [""] * (place - len(out))
    value = cell.find(f"{{{_MAIN}}}v")
    text = (value.text or "") if value is not None else _words(cell)
    if cell.get("t") == "s" and value is not None:
      text = shared[int(text)]
    out.append(text)
  return out
