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
  with pytest.raises(UserError, match="--direct[^ ]*: no such option"):
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


@pytest.fixture(scope="module")
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

    def mkdirs(self, path):
      super().mkdirs(path.removeprefix("store:/"))

    def _list(self, prefix):
      for found in super()._list(prefix.removeprefix("store:/")):
        found.path = f"store:/{found.path}"
        yield found

    def rename(self, old, new):
      bare = lambda paths: [path.removeprefix("store:/") for path in paths]
      super().rename(bare(old), bare(new))

    def delete(self, paths):
      super().delete([path.removeprefix("store:/") for path in paths])

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


def test_a_failed_run_leaves_no_shards_for_the_next_one(
  tmp_path, photos, remote
):
  photos.make_images(tmp_path / "images", 2)
  rows = [photos.row(f"s{i}", "0.png", f"a {i}", "b") for i in range(6)]
  bad = photos.row("bad", "gone.jpg", "a", "b")
  source = tmp_path / "pairs.jsonl"
  photos.write_rows(source, [*rows, bad])
  (tmp_path / "far").mkdir()
  where = {
    "pairs": remote(source),
    "images": remote(tmp_path / "images"),
  }
  out = remote(tmp_path / "far")
  runner = "--runner=DirectRunner"
  with pytest.raises(UserError, match=r"^store:/.*pairs.jsonl, id 'bad'"):
    write(tmp_path, out, runner, "--val-fraction=0", **where)
  files = lambda: [p for p in (tmp_path / "far").rglob("*") if p.is_file()]
  assert files() == []
  # As an older version left them: shards of another number.
  (tmp_path / "far" / "x-train.tfrecord-00000-of-00009").write_bytes(b"old")
  photos.write_rows(source, rows)
  write(tmp_path, out, runner, "--val-fraction=0", "--shards=2", **where)
  shards = [p.name for p in files() if "-of-" in p.name]
  assert len(shards) == 2 and all(n.endswith("-of-00002") for n in shards)


def test_what_is_skipped_is_named_without_its_place(tmp_path, photos, remote):
  photos.make_images(tmp_path / "images", 1)
  rows = [photos.row(f"s{i}", "0.png", f"a {i}", "b") for i in range(4)]
  source = tmp_path / "pairs.jsonl"
  source.write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"id": 1}]))
  skip = ("--on-bad-sample=skip", "--val-fraction=0")
  assert write(tmp_path, tmp_path / "local", *skip, "--workers=1") == 0
  (tmp_path / "far").mkdir()
  out = remote(tmp_path / "far")
  where = {"pairs": remote(source), "images": remote(tmp_path / "images")}
  assert write(tmp_path, out, "--runner=DirectRunner", *skip, **where) == 0
  (row,) = (tmp_path / "far/skipped.jsonl").read_text().splitlines()
  assert json.loads(row)["reason"].startswith("pairs.jsonl")
  assert content(tmp_path / "far") == content(tmp_path / "local")


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("Traceback\n  File x\npovid_jax.errors.UserError: a.json, id 'x': gone "
     "[while running 'Write-ptransform-3']\nmore", "a.json, id 'x': gone"),
    ("RuntimeError: 'Traceback\\n..povid_jax.errors.UserError: a: no such "
     "file\\nmore'", "a: no such file"),
    ("first\n\nthe last line\n", "the last line"),
  ],
)  # fmt: skip
def test_one_line_of_a_workers_traceback(text, reason):
  from data_gen.beam import reason_of

  assert reason_of(RuntimeError(text)) == reason
