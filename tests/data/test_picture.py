"""A sample's picture opens wherever it lies; names stay in their folder."""

import argparse

import pytest

from povid_jax.data.image import open_image, size_of
from povid_jax.data.picture import Picture, add_follow_links, in_folder
from povid_jax.errors import UserError
from povid_jax.report.pictures import Pictures


@pytest.mark.parametrize(
  "name", ["../a.jpg", "/etc/passwd", "a/../../b", "a\0b", "", "link", "l/x"]
)
def test_names_that_leave_their_folder(tmp_path, name):
  folder = tmp_path / "images"
  folder.mkdir()
  (tmp_path / "b").write_bytes(b"secret")
  (folder / "link").symlink_to(tmp_path / "b")
  (folder / "l").symlink_to(tmp_path)
  with pytest.raises(UserError, match="want a name inside|leaves"):
    in_folder(folder, name)
  with pytest.raises(UserError, match="want a name inside|leaves"):
    Picture(name, str(folder)).read()
  assert Pictures([folder]).find(name) is None


@pytest.mark.parametrize("name", ["link", "l/b"])
def test_links_are_followed_where_that_is_asked(tmp_path, monkeypatch, name):
  folder = tmp_path / "images"
  folder.mkdir()
  (tmp_path / "b").write_bytes(b"x")
  (folder / "link").symlink_to(tmp_path / "b")
  (folder / "l").symlink_to(tmp_path)
  monkeypatch.setenv("POVID_FOLLOW_LINKS", "0")  # put back after the test
  parser = argparse.ArgumentParser()
  add_follow_links(parser)
  parser.parse_args([])
  with pytest.raises(UserError, match="--follow-links"):
    Picture(name, str(folder)).read()
  parser.parse_args(["--follow-links"])
  assert Picture(name, str(folder)).read() == b"x"
  with pytest.raises(UserError, match="want a name inside"):
    Picture("../b", str(folder)).read()


def test_a_name_whose_file_is_not_there_yet(tmp_path):
  assert in_folder(tmp_path, "a/b.jpg") == tmp_path / "a/b.jpg"
  with pytest.raises(UserError, match="'a/b.jpg': no such file"):
    Picture("a/b.jpg", str(tmp_path)).check()


def test_the_report_opens_absolute_names_of_its_folders_only(tmp_path):
  folder = tmp_path / "images"
  folder.mkdir()
  for path in (folder / "in.jpg", tmp_path / "out.jpg"):
    path.write_bytes(b"x")
  pictures = Pictures([folder])
  assert pictures.find(str(folder / "in.jpg")) == folder / "in.jpg"
  assert pictures.find(str(tmp_path / "out.jpg")) is None


def test_pictures_open_from_files_and_bytes(tmp_path):
  from PIL import Image

  Image.new("RGB", (7, 5), (1, 2, 3)).save(tmp_path / "a.png")
  file = Picture("a.png", str(tmp_path))
  held = Picture("held", data=file.read())
  for picture in (file, held):
    assert open_image(picture).size == size_of(picture) == (7, 5)
  with pytest.raises(UserError, match="'a.png': --image-dir is missing"):
    open_image(Picture("a.png"))
  with pytest.raises(UserError, match="held: not a picture"):
    open_image(Picture("held", data=b"no"))
