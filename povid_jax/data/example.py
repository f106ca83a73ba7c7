"""tf.train.Example without TensorFlow.

A feature is a list of bytes, of int64 or of float32, as in TensorFlow's format.
"""

from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from povid_jax import messages
from povid_jax.messages import Field

# all of one kind
Values = Sequence[bytes] | Sequence[int] | Sequence[float]

# a proto3 file, where lists of numbers are packed
_Example = messages.make(
  "povid_jax.example",
  {
    "BytesList": [Field("value", 1, "bytes", repeated=True)],
    "FloatList": [Field("value", 1, "float", repeated=True)],
    "Int64List": [Field("value", 1, "int64", repeated=True)],
    "Feature": [
      Field("bytes_list", 1, "BytesList"),
      Field("float_list", 2, "FloatList"),
      Field("int64_list", 3, "Int64List"),
    ],
    # A map is a list of entries on the wire. As a list it has the order that we
    # give it, where protobuf's implementations sort a map each in its own way.
    "FeatureEntry": [Field("key", 1, "string"), Field("value", 2, "Feature")],
    "Features": [Field("feature", 1, "FeatureEntry", repeated=True)],
    "Example": [Field("features", 1, "Features")],
  },
  syntax="proto3",
)["Example"]


def encode_example(features: Mapping[str, Values]) -> bytes:
  """Serialises an Example; features in the order of their names.

  A list of ints becomes an Int64List, a list of floats a FloatList, any other
  (an empty one too) a BytesList.
  """
  example = _Example()
  for name in sorted(features):
    values = features[name]
    feature = example.features.feature.add(key=name).value
    if values and isinstance(values[0], int):
      feature.int64_list.value.extend(values)
    elif values and isinstance(values[0], float):
      feature.float_list.value.extend(values)
    else:
      feature.bytes_list.SetInParent()  # an empty list has its kind too
      feature.bytes_list.value.extend(values)
  example.features.SetInParent()
  return example.SerializeToString(deterministic=True)


def decode_example(data: bytes) -> dict[str, Values]:
  """Parses a serialised Example, whatever the order of its features.

  Raises:
    ValueError: not an Example.
  """
  example = _Example()
  try:
    example.ParseFromString(data)
  except DecodeError as error:
    raise ValueError(f"want a serialised tf.train.Example ({error})") from error
  out: dict[str, Values] = {}
  for entry in example.features.feature:
    # ListFields has the one list that is set, if any
    lists = entry.value.ListFields()
    out[entry.key] = [value for _, held in lists for value in held.value]
  return out
