"""The two JSON files with which `tfds.builder_from_directory` opens a folder.

tensorflow-datasets writes the same text (a test compares them), but it is a
large optional package, and the two files are small and stable.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from povid_jax.data.records import OPTIONAL

NAME = "povid"
INFO_FILE = "dataset_info.json"
DESCRIPTION = (
  "Preference pairs for vision-language models: id, encoded picture(s), the "
  "turns before the two answers part, the chosen and the rejected turns."
)


@dataclass(frozen=True)
class Split:
  """Records per shard, and the bytes of all records without framing."""

  shard_lengths: tuple[int, ...]
  num_bytes: int


def _feature(kind: str, **fields: object) -> dict:
  path = "tensorflow_datasets.core.features"
  return {"pythonClassName": f"{path}.{kind}", **fields}


def _scalar(kind: str, dtype: str) -> dict:
  tensor = {"dtype": dtype, "encoding": "none", "shape": {}}
  return _feature(kind, tensor=tensor)


def _sequence(feature: dict) -> dict:
  inner = {"feature": feature, "length": "-1"}
  return _feature("sequence_feature.Sequence", sequence=inner)


def features(optional: Collection[str] = ()) -> dict:
  """features.json. Pictures stay encoded; none, one or several per record.

  Args:
    optional: features that some records have (records.OPTIONAL); a sequence
      each, empty for the others.
  """
  text = _feature("text_feature.Text", text={})
  number = _scalar("scalar.Scalar", "int64")
  pictures = _sequence(_scalar("tensor_feature.Tensor", "string"))
  turns = _sequence(text)
  fields = {
    "category": text,
    "chosen": turns,
    "id": text,
    "image": pictures,
    "image_noisy": pictures,
    "injector": text,
    "noise_seed": number,
    "noise_step": number,
    "prompt_turns": turns,
    "rejected": turns,
  }
  weight = _scalar("scalar.Scalar", "float32")
  kinds = {"text": text, "int64": number, "float32": weight}
  fields |= {name: _sequence(kinds[OPTIONAL[name]]) for name in optional}
  fields = dict(sorted(fields.items()))
  return {
    "featuresDict": {"features": fields},
    "pythonClassName": (
      "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    ),
  }


def dataset_info(splits: Mapping[str, Split]) -> dict:
  """dataset_info.json: which shards there are and what they hold."""
  return {
    "description": DESCRIPTION,
    "fileFormat": "tfrecord",
    "name": NAME,
    "splits": [
      {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": name,
        "numBytes": str(split.num_bytes),
        "shardLengths": [str(length) for length in split.shard_lengths],
      }
      for name, split in sorted(splits.items())
    ],
    "version": "1.0.0",
  }


def dumps(
  splits: Mapping[str, Split], optional: Collection[str] = ()
) -> dict[str, str]:
  """File name -> text, the file that makes a folder complete last."""
  return {
    "features.json": json.dumps(features(optional), indent=4),
    INFO_FILE: json.dumps(dataset_info(splits), indent=2),
  }
