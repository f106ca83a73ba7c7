"""The notebook of the smoke run: its cells work, and are those in docs/."""

import os
from pathlib import Path

import nbformat
import pytest

from benchmarks import notebook, pictures, smoke
from povid_jax.errors import UserError

ROOT = Path(notebook.__file__).parents[1]
KEPT = ROOT / "docs" / "smoke.ipynb"


def _outputs(found):
  return [o for cell in found.cells for o in cell.get("outputs", ())]


def test_the_page_holds_these_cells_run():
  kept = nbformat.read(KEPT, 4)
  assert [cell.source for cell in kept.cells] == list(notebook.CELLS)
  assert KEPT.stat().st_size < 300_000
  shown = [set(o["data"]) for o in _outputs(kept) if "data" in o]
  assert {"text/html", "image/svg+xml"} <= set().union(*shown)
  assert not [o for o in _outputs(kept) if o["output_type"] == "error"]
  assert os.sep + "tmp" + os.sep not in KEPT.read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_cells_run(tmp_path, monkeypatch):
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  monkeypatch.setenv("SMOKE", str(tmp_path / "smoke"))
  made = notebook.build()
  notebook.run(made, ROOT)
  text = "".join(o.get("text", "") for o in _outputs(made))
  # the run itself, then what the cells print of it
  assert f"[{len(smoke.COMMANDS)}/{len(smoke.COMMANDS)}]" in text
  assert "stage2" in text and "recall" in text
  svg = next(
    o["data"]["image/svg+xml"]
    for o in _outputs(made)
    if "image/svg+xml" in o.get("data", {})
  )
  assert svg.count("<path") > 10 and "var(" not in svg


def test_curves_want_a_run(tmp_path):
  with pytest.raises(UserError, match="run directory"):
    pictures.curves(tmp_path)
