"""The Beam pipeline against the local writer; runs where Beam is installed."""

import json

import pytest

from data_gen.__main__ import main
from povid_jax.data.picture import Picture
from povid_jax.errors import UserError

beam = pytest.importorskip("apache_beam")

# Beam's own imports and threads warn about things that are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


def write(root, out, *more, pairs=None, images=None):
  return main(
    [
      "write",
      f"--pairs={pairs or root / 'pairs.jsonl'}",
      f"--image-dir={images or root / 'images'}",
      f"--out={out}",
      "--shards=3",
      "--val-fraction=0.3",
      "--store-noisy",
      *more,
    ]
  )


def content(folder):
  return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_bytes_as_the_local_writer(tmp_path, photos):
  photos.make_pairs(tmp_path)
  assert write(tmp_path, tmp_path / "local", "--workers=1") == 0
  assert write(tmp_path, tmp_path / "beam", "--runner=DirectRunner") == 0
  assert content(tmp_path / "beam") == content(tmp_path / "local")


def test_options_for_the_runner_follow_two_dashes(tmp_path, photos):
  photos.make_pairs(tmp_path, count=6)
  options = ("--runner=DirectRunner", "--", "--direct_num_workers=2")
  assert write(tmp_path, tmp_path / "beam", *options) == 0
  with pytest.raises(UserError, match="no such option: --direct"):
    write(tmp_path, tmp_path / "x", *options[1:])


def test_a_bad_sample_is_named_and_nothing_is_left(tmp_path, photos):
  photos.make_images(tmp_path / "images", 1)
  rows = [photos.row("bad", "gone.jpg", "a", "b")]
  rows.append(photos.row("good", "0.png", "a", "b"))
  photos.write_rows(tmp_path / "pairs.jsonl", rows)
  before = sorted(tmp_path.iterdir())
  with pytest.raises(UserError, match="pairs.jsonl, id 'bad': image 'gone"):
    write(tmp_path, tmp_path / "out", "--runner=DirectRunner")
  assert sorted(tmp_path.iterdir()) == before
  skip = ("--runner=DirectRunner", "--on-bad-sample=skip")
  assert write(tmp_path, tmp_path / "out", *skip) == 0
  facts = json.loads((tmp_path / "out/povid.json").read_text())
  assert facts["skipped"] == 1


def test_an_unknown_runner(tmp_path, photos):
  photos.make_pairs(tmp_path, count=2)
  with pytest.raises(UserError, match="NoRunner"):
    write(tmp_path, tmp_path / "out", "--runner=NoRunner")


@pytest.fixture
def remote():
  """A Beam filesystem "store://", kept in local folders."""
  from apache_beam.io.localfilesystem import LocalFileSystem

  class Store(LocalFileSystem):
    @classmethod
    def scheme(cls):
      return "store"

    def join(self, basepath, *paths):
      return "/".join([basepath.rstrip("/"), *paths])

    def _path_open(self, path, mode, *rest, **more):
      path = path.removeprefix("store:/")
      return super()._path_open(path, mode, *rest, **more)

    def exists(self, path):
      return super().exists(path.removeprefix("store:/"))

  # Beam finds it among the living subclasses, so the class is held here.
  yield lambda path, _=Store: f"store:/{path}"


def test_folders_on_another_filesystem(tmp_path, photos, remote, capsys):
  photos.make_pairs(tmp_path)
  assert write(tmp_path, tmp_path / "local", "--workers=1") == 0
  (tmp_path / "far").mkdir()
  where = {
    "pairs": remote(tmp_path / "pairs.jsonl"),
    "images": remote(tmp_path / "images"),
  }
  out = remote(tmp_path / "far")
  assert write(tmp_path, out, "--runner=DirectRunner", **where) == 0
  assert content(tmp_path / "far") == content(tmp_path / "local")
  assert f"written: {out}" in capsys.readouterr().out
  with pytest.raises(UserError, match="complete already"):
    write(tmp_path, out, "--runner=DirectRunner", **where)


def test_a_filesystem_that_beam_does_not_know(tmp_path, photos):
  photos.make_pairs(tmp_path, count=2)
  with pytest.raises(UserError, match="nowhere://"):
    write(tmp_path, "nowhere://x/out", "--runner=DirectRunner")
  with pytest.raises(UserError, match="nowhere://"):
    images = "nowhere://x/images"
    write(tmp_path, tmp_path / "o", "--runner=DirectRunner", images=images)


def test_remote_names_stay_inside_their_folder(tmp_path, remote):
  for name in ("../a.jpg", "/a.jpg", "a/../../b.jpg", "gs://x/a.jpg"):
    with pytest.raises(UserError, match="want a name inside"):
      Picture(name, remote(tmp_path)).read()
