"""What TensorFlow makes of our folders; runs where it is installed."""

import io

import numpy as np
import pytest
from PIL import Image

from data_gen.__main__ import main
from povid_jax.data.records import RecordSource, decode

tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tmp_path, photos):
  """One sample each with: everything; no rejected answer; no picture."""
  photos.make_images(tmp_path / "images", 2)
  rows = [
    photos.row("pair é", "0.png", "A rocket.", "A plane."),
    photos.row("sft", "1.jpg", "A face.", None),
    photos.row("text", None, "A poem.", "No poem."),
  ]
  photos.write_rows(tmp_path / "pairs.jsonl", rows)
  argv = ["write", f"--pairs={tmp_path}/pairs.jsonl", "--shards=2"]
  argv += [f"--image-dir={tmp_path}/images", f"--out={tmp_path}/out"]
  assert main([*argv, "--store-noisy", "--workers=1"]) == 0
  return tmp_path / "out"


def test_tensorflow_datasets_opens_it(folder):
  builder = tfds.builder_from_directory(str(folder))
  assert builder.info.splits["train"].num_examples == 3
  rows = tfds.as_numpy(builder.as_dataset(split="train"))
  rows = {row["id"].decode(): row for row in rows}
  source = RecordSource(folder, "train")
  assert set(rows) == {"pair é", "sft", "text"}
  for i in range(3):
    want = source[i]
    row = rows[want.id]
    assert tuple(row["image"]) == want.images
    noisy = () if want.image_noisy is None else (want.image_noisy,)
    assert tuple(row["image_noisy"]) == noisy
    for field in ("prompt_turns", "chosen", "rejected"):
      texts = tuple(text.decode() for text in row[field])
      assert texts == getattr(want, field)
    assert int(row["noise_seed"]) == want.noise_seed
    assert int(row["noise_step"]) == want.noise_step


def test_tensorflow_reads_the_files_and_checks_their_crc(folder):
  files = sorted(map(str, folder.glob("*.tfrecord-*")))
  schema = {
    "id": tf.io.FixedLenFeature([], tf.string),
    "image_noisy": tf.io.VarLenFeature(tf.string),
    "noise_step": tf.io.FixedLenFeature([], tf.int64),
  }
  rows = [
    tf.io.parse_single_example(data, schema)
    for data in tf.data.TFRecordDataset(files)
  ]
  assert [row["id"].numpy().decode() for row in rows] == [
    "pair é",
    "sft",
    "text",
  ]
  data = rows[0]["image_noisy"].values[0].numpy()
  with Image.open(io.BytesIO(data)) as image:
    np.testing.assert_array_equal(np.asarray(image), tf.io.decode_image(data))


def test_tensorflow_loses_nothing_of_our_bytes(folder):
  source = RecordSource(folder, "train")
  for i in range(3):
    parsed = tf.train.Example.FromString(source.read(i))
    # Fields it did not know would be kept apart; maps have no fixed order.
    assert len(parsed.SerializeToString()) == len(source.read(i))
    assert decode(parsed.SerializeToString()) == source[i]
