"""tf.train.Example on the wire, without TensorFlow.

Written are features that are lists of bytes or of int64; read are all. The
messages are Example{1: Features{1: map<string, Feature>}} with
Feature{1: BytesList, 2: FloatList, 3: Int64List}, each list a repeated field 1.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

# all of one kind
Values = Sequence[bytes] | Sequence[int] | Sequence[float]

_INT64 = 1 << 64
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


def _varint(value: int) -> bytes:
  value %= _INT64  # negative numbers as two's complement
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  out.append(value)
  return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
  return bytes([number << 3 | _DELIMITED]) + _varint(len(payload)) + payload


def _feature(values: Values) -> bytes:
  if values and isinstance(values[0], int):
    packed = b"".join(map(_varint, cast(Sequence[int], values)))
    return _field(_INT64_LIST, _field(1, packed))
  held = cast(Sequence[bytes], values)
  return _field(_BYTES_LIST, b"".join(_field(1, value) for value in held))


def encode_example(features: Mapping[str, Values]) -> bytes:
  """Serialises an Example; features in the order of their names.

  A list of ints becomes an Int64List, any other (an empty one too) a BytesList.
  """
  entries = (
    _field(1, _field(1, name.encode()) + _field(2, _feature(features[name])))
    for name in sorted(features)
  )
  return _field(1, b"".join(entries))


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
  value = shift = 0
  while True:
    if at >= len(data) or shift > 63:
      raise ValueError("a number is cut off")
    byte = data[at]
    value |= (byte & 0x7F) << shift
    at += 1
    if byte < 0x80:
      return value % _INT64, at
    shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
  """Yields (field number, payload); fixed-width fields are stepped over."""
  at, end = 0, len(data)
  while at < end:
    key, at = data[at], at + 1
    if key > 0x7F:
      key, at = _read_varint(data, at - 1)
    wire = key & 7
    if wire == _DELIMITED:
      if at < end and data[at] < 0x80:  # most lengths are one byte
        size, at = data[at], at + 1
      else:
        size, at = _read_varint(data, at)
    elif wire == _VARINT:
      value, at = _read_varint(data, at)
      yield key >> 3, value
      continue
    elif wire in (_FIXED64, _FIXED32):
      size = 8 if wire == _FIXED64 else 4
    else:
      raise ValueError(f"unknown wire type {wire}")
    if at + size > end:
      raise ValueError("a field is cut off")
    if wire == _DELIMITED:
      yield key >> 3, data[at : at + size]
    at += size


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
  for field, payload in _fields(data):
    if field == number:
      if isinstance(payload, int):
        raise ValueError(f"field {number} is a number, want a message")
      yield payload


def _signed(value: int) -> int:
  return value - _INT64 if value >= _INT64 >> 1 else value


def _int64s(data: memoryview) -> Iterator[int]:
  for field, payload in _fields(data):
    if field != 1:
      continue
    if isinstance(payload, int):  # unpacked: old writers do that
      yield _signed(payload)
      continue
    at = 0
    while at < len(payload):
      value, at = _read_varint(payload, at)
      yield _signed(value)


def _floats(data: memoryview) -> Iterator[float]:
  for packed in _messages(data, 1):
    if len(packed) % 4:
      raise ValueError("a float is cut off")
    yield from struct.unpack(f"<{len(packed) // 4}f", packed)


def _values(feature: memoryview) -> Values:
  out: Values = []
  for kind, payload in _fields(feature):
    if isinstance(payload, int):
      raise ValueError("a feature holds a number, want a list")
    if kind == _BYTES_LIST:
      out = [bytes(value) for value in _messages(payload, 1)]
    elif kind == _INT64_LIST:
      out = list(_int64s(payload))
    elif kind == _FLOAT_LIST:
      out = list(_floats(payload))
  return out


def decode_example(data: bytes) -> dict[str, Values]:
  """Parses a serialised Example, whatever the order of its features.

  Raises:
    ValueError: not an Example.
  """
  out: dict[str, Values] = {}
  for features in _messages(memoryview(data), 1):  # no copies on the way
    for entry in _messages(features, 1):
      name = b"".join(_messages(entry, 1)).decode()
      out[name] = []
      for feature in _messages(entry, 2):
        out[name] = _values(feature)
  return out
