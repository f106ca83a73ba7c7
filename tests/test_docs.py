"""Paths and links that the pages name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
  path.relative_to(ROOT).as_posix()
  for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
  if path.name != "CHANGELOG.md"  # it names what there was
)
# what commands write
_WRITTEN = ("benchmarks/results.json",)
# parts of paths that stand for others
_HOLDERS = re.compile(r"NAME|DIR|<|\{|\*")
_PATH = re.compile(
  r"\b(?:povid_jax|data_gen|configs|benchmarks|docs|tests)/[\w./<>{}*-]*"
)


def _absent(text: str, folder: Path) -> list[str]:
  """Paths of the repository, and links from `folder`, that are not there."""
  absent = []
  for found in _PATH.finditer(text):
    path = found[0].rstrip(".,")
    inside_another = text[: found.start()][-1:] in ("/", "-", ".")
    if path in _WRITTEN or _HOLDERS.search(path) or inside_another:
      continue
    # a module may be named without its ending
    if not ((ROOT / path).exists() or (ROOT / f"{path}.py").exists()):
      absent.append(path)
  links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text)
  return absent + [link for link in links if not (folder / link).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page):
  path = ROOT / page
  assert _absent(path.read_text(), path.parent) == []


@pytest.mark.parametrize(
  "text", ["`povid_jax/sharding.py`", "[x](none.md)", "see docs/none.md."]
)
def test_what_is_not_there_is_found(text):
  assert len(_absent(text, ROOT)) == 1
