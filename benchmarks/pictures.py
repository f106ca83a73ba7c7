"""Curves of a run as one SVG file, for a page or a notebook.

  python -m benchmarks.pictures RUN --out docs/curves.svg

Loss, margins, accuracies and drift, drawn as in the report, in colours that are
readable on white.
"""

import argparse
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from povid_jax import errors, files
from povid_jax.errors import UserError
from povid_jax.report import charts
from povid_jax.report.charts import Series
from povid_jax.report.html import escape
from povid_jax.training import metrics

SHOWN = (
  ("Loss", "loss", {"loss": "a"}),
  ("Margins", "nats × β", {"margin/rejected": "a", "margin/noise": "b"}),
  ("Accuracies", "share", {"accuracy/rejected": "a", "accuracy/noise": "b"}),
  ("Chosen drift", "nats", {"drift/chosen": "a"}),
)
_TITLE = 16  # pixels above each chart


def curves(run: Path) -> str:
  """A standalone SVG, four charts beside each other.

  Raises:
    UserError: the folder holds no rows of a training run.
  """
  path = metrics.path_in(run)
  if not path.exists():
    raise UserError(f"{run}: no metrics/train.jsonl; want a run directory")
  rows = metrics.read(path)
  drawn = []
  for number, (title, label, lines) in enumerate(SHOWN):
    series = [
      Series(
        name,
        [row["step"] for row in rows if name in row],
        [row[name] for row in rows if name in row],
        look,
      )
      for name, look in lines.items()
    ]
    found = re.search(
      r"<svg[^>]*>(.*)</svg>", charts.line_chart(title, series, label), re.S
    )
    if found is None:  # none of these metrics
      continue
    keys = ", ".join(
      f"{s.name}{' (dashed)' if s.look == 'b' else ''}" for s in series if s.x
    )
    drawn.append(
      f'<g transform="translate({number * charts.WIDTH} {_TITLE})">'
      f'<text class="label" x="{charts.LEFT}" y="-4">{escape(keys)}</text>'
      f"{found[1]}</g>"
    )
  width, height = charts.WIDTH * len(SHOWN), charts.HEIGHT + _TITLE
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
    f'height="{height}" viewBox="0 0 {width} {height}" '
    f'font-family="sans-serif"><style>{_style()}</style>'
    f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(drawn)}'
    "</svg>\n"
  )


def _style() -> str:
  """The report's rules for charts, with the colours put in: an SVG file alone
  knows neither the page's variables nor its other rules."""
  sheet = resources.files("povid_jax.report").joinpath("style.css").read_text()
  colours = dict(re.findall(r"--(\w+): (#\w+)", sheet.split("@media")[0]))
  colours |= {"soft": "#5f6b76", "ink": "#1d2126", "line": "#d9dee3"}
  colours |= {"card": "#ffffff"}
  rules = re.findall(r"svg \.?[\w.]+(?:, svg \.?\w+)* \{[^}]*\}", sheet)
  text = " ".join(rules) + " text { font-size: 11px; }"
  return re.sub(r"var\(--(\w+)\)", lambda m: colours[m[1]], text)


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.pictures",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("run", type=Path, help="a run directory")
  parser.add_argument("--out", type=Path, required=True, help="an SVG file")
  args = parser.parse_args(argv)
  with files.atomic_write(args.out) as file:
    file.write(curves(args.run))
  print(args.out)
  return 0


if __name__ == "__main__":
  errors.run(main)
