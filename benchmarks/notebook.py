"""docs/smoke.ipynb: the smoke run with its pictures, curves and scores.

  python -m benchmarks.notebook docs/smoke.ipynb

The cells are written here and run in a fresh kernel; needs nbclient and
ipykernel (the extra `dev`). SMOKE=FOLDER shows a smoke run that exists
(`python -m benchmarks.smoke --out FOLDER`) in place of a new one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from povid_jax import errors, files

# markdown and code in turn
CELLS = (
  "# The smoke run\n\nEvery command once, on a model of a few thousand "
  "parameters that learns nothing: from a checkpoint on disk to a tuned one. "
  "`make smoke` does the same; here its files are looked at. The numbers mean "
  "nothing.",
  """import json
import os
import tempfile
from pathlib import Path
from IPython.display import HTML, SVG, display

from benchmarks import pictures, smoke

out = Path(os.environ.get("SMOKE") or tempfile.mkdtemp() + "/smoke")
if not out.exists():
  out.mkdir()
  smoke.run(out)
print(*sorted(path.name for path in out.iterdir()))""",
  "## Pairs\n\nThe chosen answer, and below it the one with injected "
  "hallucinations; words that differ are marked.",
  """from povid_jax.data.image import open_image
from povid_jax.report import html

rows = [json.loads(line) for line in open(out / "pairs.jsonl")]
for row in [r for r in rows if "description" in r["id"]][:3]:
  chosen = row["conversations"][-1]["value"]
  rejected = row["rejected_conversations"][-1]["value"]
  before, after = html.word_diff(chosen, rejected)
  picture = open_image(out / "scenes/images" / row["image"])
  display(HTML(f'<img alt="{row["id"]}" src="{html.thumbnail(picture, 128)}">'
               f"<p>{before}</p><p>{after}</p>"))""",
  "## Training\n\nStage 2. At the first step policy and reference are the "
  "same model, so the loss is ln 2 = 0.693 and every margin is 0.",
  """display(SVG(pictures.curves(out / "stage2")))""",
  "## Scores\n\nBefore and after, on pictures never trained on.",
  """for stage in ("base", "stage2"):
  scores = json.loads((out / "results" / stage / "results.json").read_text())
  for row in scores["results"]:
    if row["benchmark"] == "chair":
      print(stage, row["metric"], round(row["value"], 3), row["ci95"])""",
  "## Answers\n\nOf the tuned model; a model that learnt nothing says nothing "
  "sensible.",
  """for line in open(out / "answers.jsonl").readlines()[:3]:
  row = json.loads(line)
  print(row["question_id"], repr(row["text"]))""",
)


def build() -> Any:
  """The notebook, not yet run."""
  import nbformat  # pyright: ignore[reportMissingImports]

  made = nbformat.v4
  cells = [
    made.new_code_cell(text, id=f"cell{i}")
    if i % 2
    else made.new_markdown_cell(text, id=f"cell{i}")
    for i, text in enumerate(CELLS)
  ]
  kernel = {"name": "python3", "display_name": "Python 3"}
  return made.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def run(notebook: Any, folder: Path) -> None:
  """Runs the cells in `folder`, the repository's root; fails as they do."""
  from nbclient import NotebookClient  # pyright: ignore[reportMissingImports]

  NotebookClient(
    notebook, timeout=1800, resources={"metadata": {"path": str(folder)}}
  ).execute()
  for cell in notebook.cells:  # times of this run
    cell.metadata.pop("execution", None)


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.notebook",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("out", type=Path, help="the .ipynb to write")
  out = parser.parse_args(argv).out
  files.check_writable(out)
  import nbformat  # pyright: ignore[reportMissingImports]

  notebook = build()
  run(notebook, Path(__file__).parents[1])
  with files.atomic_write(out) as file:
    file.write(nbformat.writes(notebook) + "\n")
  print(f"{out} ({out.stat().st_size / 1000:.0f} kB)")
  return 0


if __name__ == "__main__":
  errors.run(main)
