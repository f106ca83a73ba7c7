"""Protocol buffer messages whose classes are made at run time.

Generated modules demand a protobuf of at least their own version, and packages
disagree on it: Apache Beam wants an older one than SentencePiece. Classes made
from a description work with every version.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf import (
  descriptor_pb2,
  descriptor_pool,
  message_factory,
)

_TYPES = descriptor_pb2.FieldDescriptorProto


class Field(NamedTuple):
  """A field of a message.

  Attributes:
    name: of the attribute.
    number: on the wire.
    kind: "bytes", "string", "float", "int64", "int32", "bool", or the name of
      another message of the same file.
    repeated: whether it is a list.
    default: value of an absent field, as protobuf spells it; "" for the type's
      own.
  """

  name: str
  number: int
  kind: str
  repeated: bool = False
  default: str = ""


def make(
  package: str,
  fields: Mapping[str, Sequence[Field]],
  *,
  syntax: str = "proto2",
) -> dict[str, Any]:
  """Classes by the name of the message.

  Args:
    package: prefix of the full names.
    fields: of each message.
    syntax: "proto2" or "proto3".
  """
  file = descriptor_pb2.FileDescriptorProto(
    name=f"{package}.proto", package=package, syntax=syntax
  )
  for name, members in fields.items():
    message = file.message_type.add(name=name)
    for field in members:
      where = f"{package}.{field.kind}"
      added = message.field.add(
        name=field.name,
        number=field.number,
        label=_TYPES.LABEL_REPEATED
        if field.repeated
        else _TYPES.LABEL_OPTIONAL,
      )
      if field.kind in fields:
        added.type = _TYPES.TYPE_MESSAGE
        added.type_name = f".{where}"
      else:
        added.type = getattr(_TYPES, f"TYPE_{field.kind.upper()}")
      if field.default:
        added.default_value = field.default
  pool = descriptor_pool.DescriptorPool()  # not TensorFlow's: names would clash
  pool.Add(file)
  return {
    name: message_factory.GetMessageClass(
      pool.FindMessageTypeByName(f"{package}.{name}")
    )
    for name in fields
  }
