"""tf.train.Example on the wire, without TensorFlow.

Written are features that are lists of bytes or of int64; read are all. The
messages are Example{1: Features{1: map<string, Feature>}} with
Feature{1: BytesList, 2: FloatList, 3: Int64List}, each list a repeated field 1.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from povid_jax.protowire import DELIMITED, LIMIT, fields, read_varint

# all of one kind
Values = Sequence[bytes] | Sequence[int] | Sequence[float]

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


def _varint(value: int) -> bytes:
  value %= LIMIT  # negative numbers as two's complement
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  out.append(value)
  return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
  return bytes([number << 3 | DELIMITED]) + _varint(len(payload)) + payload


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


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
  for field, payload in fields(data):
    if field == number:
      if isinstance(payload, int):
        raise ValueError(f"field {number} is a number, want a message")
      yield payload


def _signed(value: int) -> int:
  return value - LIMIT if value >= LIMIT >> 1 else value


def _int64s(data: memoryview) -> Iterator[int]:
  for field, payload in fields(data):
    if field != 1:
      continue
    if isinstance(payload, int):  # unpacked: old writers do that
      yield _signed(payload)
      continue
    at = 0
    while at < len(payload):
      value, at = read_varint(payload, at)
      yield _signed(value)


def _floats(data: memoryview) -> Iterator[float]:
  for packed in _messages(data, 1):
    if len(packed) % 4:
      raise ValueError("a float is cut off")
    yield from struct.unpack(f"<{len(packed) // 4}f", packed)


def _values(feature: memoryview) -> Values:
  out: Values = []
  for kind, payload in fields(feature):
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
