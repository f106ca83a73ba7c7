"""Our two metadata files against those that tensorflow-datasets writes."""

import json

import numpy as np
import pytest

from data_gen import metadata
from povid_jax.data import records


def more(f):
  """The features that only some records have."""
  return {
    "context": f.Text(),
    "end_scored": f.Scalar(np.int64),
    "more_rejected": f.Text(),
    "more_rejected_turns": f.Scalar(np.int64),
    "more_chosen": f.Text(),
    "more_chosen_turns": f.Scalar(np.int64),
    "rejected_of": f.Scalar(np.int64),
    "rejected_weight": f.Scalar(np.float32),
    "system": f.Text(),
  }


def reference(folder, splits, optional=()):
  tfds = pytest.importorskip("tensorflow_datasets")
  f = tfds.features
  pictures = f.Sequence(f.Tensor(shape=(), dtype=np.object_))
  turns = f.Sequence(f.Text())
  features = f.FeaturesDict(
    {
      "id": f.Text(),
      "image": pictures,
      "image_noisy": pictures,
      "noise_step": f.Scalar(np.int64),
      "noise_seed": f.Scalar(np.int64),
      "prompt_turns": turns,
      "chosen": turns,
      "rejected": turns,
      "category": f.Text(),
      "injector": f.Text(),
      **{name: f.Sequence(more(f)[name]) for name in optional},
    }
  )
  infos = []
  for name, split in splits.items():
    count = len(split.shard_lengths)
    for i in range(count):
      (folder / records.shard_name(name, i, count)).touch()
    infos.append(
      tfds.core.SplitInfo(
        name=name,
        shard_lengths=list(split.shard_lengths),
        num_bytes=split.num_bytes,
        filename_template=tfds.core.ShardedFileTemplate(
          data_dir=folder,
          dataset_name=metadata.NAME,
          filetype_suffix="tfrecord",
          template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        ),
      )
    )
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=features,
    split_infos=infos,
    check_data=False,
    description=metadata.DESCRIPTION,
  )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optional", [(), tuple(records.OPTIONAL)])
def test_the_same_files_as_tensorflow_datasets(tmp_path, optional):
  splits = {
    "train": metadata.Split((3, 4), 1000),
    "validation": metadata.Split((2,), 77),
  }
  reference(tmp_path, splits, optional)
  for name, text in metadata.dumps(splits, optional).items():
    assert json.loads(text) == json.loads((tmp_path / name).read_text())


def test_the_file_that_marks_a_folder_complete_comes_last():
  assert list(metadata.dumps({}))[-1] == "dataset_info.json"
