"""Writes one table as an .xlsx file: five small XML parts in a zip archive."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

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
