"""A chart of crosses, each with a number; names stand below."""

from collections.abc import Sequence

from povid_jax.report.charts import (
  BOTTOM,
  HEIGHT,
  LEFT,
  WIDTH,
  Dot,
  Plane,
  percent,
  svg,
)
from povid_jax.report.html import escape

_DIGIT, _LINE = 7, 12  # width and height of a label's digit in pixels


def _label(
  cx: float, cy: float, width: float, taken: list[tuple[float, ...]]
) -> tuple[str, float, float]:
  """Side, x and y of a free place beside the dot; `taken` gets its box."""
  best: tuple[int, str, float, float, tuple[float, ...]] | None = None
  for number in (0, 1, -1, 2, -2, 3, -3):
    for side in ("start", "end"):
      tx = cx + 7 if side == "start" else cx - 7
      ty = cy + 4 + number * _LINE
      left = tx if side == "start" else tx - width
      box = (left, ty - _LINE + 2, left + width, ty + 2)
      outside = left < LEFT or box[2] > WIDTH
      outside |= box[1] < 0 or box[3] > HEIGHT - BOTTOM
      covered = sum(
        box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3]
        for b in taken
      )
      if best is None or covered + 9 * outside < best[0]:
        best = (covered + 9 * outside, side, tx, round(ty, 1), box)
  assert best is not None
  taken.append(best[4])
  return best[1:4]


def scatter(
  title: str,
  points: Sequence[tuple[Dot, Dot]],
  x_label: str,
  y_label: str,
  note: str = "",
) -> str:
  """A figure with one cross of intervals per (x, y) pair of dots."""
  if len(points) < 2:
    return ""
  x_all = [v for x, _ in points for v in (x.low, x.high)]
  y_all = [v for _, y in points for v in (y.low, y.high)]
  widen = lambda vs: (
    min(vs) - 0.08 * (max(vs) - min(vs)),
    max(vs) + 0.08 * (max(vs) - min(vs)),
  )
  plane = Plane(widen(x_all), widen(y_all), percent, percent)
  parts = list(plane.axes(x_label, y_label))
  # boxes (left, top, right, bottom) that a label must not cover
  taken = [
    (cx - 5, cy - 5, cx + 5, cy + 5)
    for cx, cy in ((plane.x(x.value), plane.y(y.value)) for x, y in points)
  ]
  for number, (x, y) in enumerate(points, 1):
    cx, cy = plane.x(x.value), plane.y(y.value)
    parts.append(
      f'<path class="span thin {x.look}" d="M{plane.x(x.low)} {cy}'
      f'H{plane.x(x.high)}M{cx} {plane.y(y.low)}V{plane.y(y.high)}"/>'
      f'<circle class="dot {x.look}" cx="{cx}" cy="{cy}" r="4.5"/>'
    )
    # names of close dots would cover each other: they stand below, by number
    side, tx, ty = _label(cx, cy, _DIGIT * len(str(number)), taken)
    parts.append(
      f'<text class="row halo {side}" x="{tx}" y="{ty}">{number}</text>'
    )
  names = "".join(f"<li>{escape(x.name)}</li>" for x, _ in points)
  says = ", ".join(
    f"{x.name} {percent(x.value)} and {percent(y.value)}" for x, y in points
  )
  text = f'<p class="note">{escape(note)}</p>' if note else ""
  return (
    f'<figure class="chart"><figcaption><span class="name">{escape(title)}'
    f"</span></figcaption>{text}"
    f"{svg(parts, f'{x_label} and {y_label}: {says}', HEIGHT)}"
    f'<ol class="numbers">{names}</ol></figure>'
  )
