"""Protocol buffers as they lie in bytes, for readers without generated code.

Generated modules ask for a protobuf of at least their own version, and
packages disagree on which: Apache Beam wants an older one than SentencePiece.
"""

from collections.abc import Iterator

LIMIT = 1 << 64  # numbers are unsigned below this
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
  """(number, where the next thing starts); ValueError where it is cut off."""
  value = shift = 0
  while True:
    if at >= len(data) or shift > 63:
      raise ValueError("a number is cut off")
    byte = data[at]
    value |= (byte & 0x7F) << shift
    at += 1
    if byte < 0x80:
      return value % LIMIT, at
    shift += 7


def fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
  """Yields (field number, payload) of a message, in the order of the bytes.

  A payload is the number of a varint, else bytes: those of a message, a text
  or a packed list, or the 4 or 8 of a fixed-width number.

  Raises:
    ValueError: no message, or one that is cut off.
  """
  at, end = 0, len(data)
  while at < end:
    key, at = data[at], at + 1
    if key > 0x7F:
      key, at = read_varint(data, at - 1)
    wire = key & 7
    if wire == DELIMITED:
      if at < end and data[at] < 0x80:  # most lengths are one byte
        size, at = data[at], at + 1
      else:
        size, at = read_varint(data, at)
    elif wire == VARINT:
      value, at = read_varint(data, at)
      yield key >> 3, value
      continue
    elif wire in (FIXED64, FIXED32):
      size = 8 if wire == FIXED64 else 4
    else:
      raise ValueError(f"unknown wire type {wire}")
    if at + size > end:
      raise ValueError("a field is cut off")
    yield key >> 3, data[at : at + size]
    at += size
