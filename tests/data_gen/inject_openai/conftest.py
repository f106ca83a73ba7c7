"""Samples to be edited by a server."""

from pathlib import Path

import pytest


@pytest.fixture
def world(tmp_path, photos):
  """A folder of photographs and a function that writes samples."""
  names = photos.make_images(tmp_path / "images", 4)

  def samples(count: int) -> Path:
    rows = [
      photos.row(
        f"s{i}",
        names[i % 4],
        f"A brown dog number {i} lies on the grass next to a bench.",
        None,
      )
      for i in range(count)
    ]
    return photos.write_rows(tmp_path / "in.jsonl", rows)

  return tmp_path, samples
