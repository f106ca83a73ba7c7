"""Line and interval charts as inline SVG; scatter.py has the third kind.

Colours and type come from style.css by class, so that a chart follows the
reader's light or dark mode. A viewBox is a little narrower than a phone, so
type keeps about its size there and in a grid of four on a desk.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

from povid_jax.report.html import escape

WIDTH, HEIGHT = 280, 190
LEFT, RIGHT, TOP, BOTTOM = 54, 8, 8, 38
MAX_POINTS = 160  # of a drawn line; more is invisible, and a heavier page


@dataclasses.dataclass(frozen=True)
class Series:
  """A named line; y is None where there is nothing to draw.

  Attributes:
    look: CSS class of its colour and dash: a (blue), b (orange), c (grey).
  """

  name: str
  x: Sequence[float]
  y: Sequence[float | None]
  look: str = "a"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
  """Round numbers (1, 2, 2.5 or 5 times a power of ten) inside [low, high]."""
  if not high > low:
    return [low]
  raw = (high - low) / count
  power = 10.0 ** math.floor(math.log10(raw))
  step = power * next(s for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [number * step for number in range(first, last + 1)]


def number(value: float, step: float | None = None) -> str:
  """A short number; `step`, the distance of two ticks, sets the decimals."""
  if value == 0:
    return "0"
  if step is None:  # three digits
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
  if abs(value) >= 1e5 or step < 1e-4:
    return f"{value:.2g}".replace("-", "−").replace("e−0", "e−")
  decimals = max(0, -math.floor(math.log10(step) + 1e-9))
  shifted = step * 10**decimals
  if abs(shifted - round(shifted)) > 1e-6:  # 2.5, 0.25
    decimals += 1
  return f"{value:,.{decimals}f}".replace("-", "−")


def percent(value: float, step: float | None = None) -> str:
  """A fraction as percent, with one decimal where no step is given."""
  return number(100 * value, 0.1 if step is None else 100 * step) + "%"


def smooth(values: Sequence[float | None], window: int) -> list[float | None]:
  """Centred mean over `window` values; shorter at the ends."""
  half, out = window // 2, []
  for i in range(len(values)):
    near = [v for v in values[max(0, i - half) : i + half + 1] if v is not None]
    out.append(sum(near) / len(near) if near else None)
  return out


def thin(
  x: Sequence[float], y: Sequence[float | None], most: int = MAX_POINTS
) -> tuple[list[float], list[float | None]]:
  """At most `most` points: means of neighbours; gaps stay gaps."""
  if len(x) <= most:
    return list(x), list(y)
  size = math.ceil(len(x) / most)
  xs, ys = [], []
  for start in range(0, len(x), size):
    near = [v for v in y[start : start + size] if v is not None]
    xs.append(sum(x[start : start + size]) / len(x[start : start + size]))
    ys.append(sum(near) / len(near) if near else None)
  return xs, ys


class Plane:
  """Data to pixels, and the axes around them."""

  def __init__(
    self,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    form: Callable[..., str] = number,
    x_form: Callable[..., str] = number,
  ):
    self.x_low, self.x_high = _open(*x_range)
    self.y_low, self.y_high = _open(*y_range)
    self._form, self._x_form = form, x_form

  def x(self, value: float) -> float:
    share = (value - self.x_low) / (self.x_high - self.x_low)
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

  def y(self, value: float) -> float:
    share = (value - self.y_low) / (self.y_high - self.y_low)
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

  def axes(self, x_label: str, y_label: str) -> Iterator[str]:
    left, right, bottom = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
    rows = ticks(self.y_low, self.y_high, 5)
    step = rows[1] - rows[0] if len(rows) > 1 else None
    for value in rows:
      y, kind = self.y(value), "zero" if value == 0 else "grid"
      yield f'<path class="{kind}" d="M{left} {y}H{right}"/>'
      yield (
        f'<text class="tick end" x="{left - 6}" y="{y + 3.5}">'
        f"{self._form(value, step)}</text>"
      )
    columns = ticks(self.x_low, self.x_high, 4)
    step = columns[1] - columns[0] if len(columns) > 1 else None
    for value in columns:
      yield (
        f'<text class="tick mid" x="{self.x(value)}" y="{bottom + 15}">'
        f"{self._x_form(value, step)}</text>"
      )
    yield f'<path class="axis" d="M{left} {bottom}H{right}"/>'
    middle = (left + right) / 2
    yield (
      f'<text class="label mid" x="{middle}" y="{HEIGHT - 5}">'
      f"{escape(x_label)}</text>"
    )
    yield (
      f'<text class="label mid" transform="translate(8 '
      f'{(TOP + bottom) / 2}) rotate(-90)">{escape(y_label)}</text>'
    )


def _open(low: float, high: float) -> tuple[float, float]:
  """A range of some width, also around one value."""
  if high > low:
    return low, high
  pad = abs(low) * 0.1 or 1.0
  return low - pad, high + pad


def svg(parts: Iterator[str] | list[str], says: str, height: int) -> str:
  return (
    f'<svg viewBox="0 0 {WIDTH} {height}" role="img" '
    f'aria-label="{escape(says)}">{"".join(parts)}</svg>'
  )


def _path(plane: Plane, x: Sequence[float], y: Sequence[float | None]) -> str:
  """'M1 2L3 4...', with a new M after each gap."""
  steps, pen = [], "M"
  for at, value in zip(x, y, strict=True):
    if value is None:
      pen = "M"
      continue
    steps.append(f"{pen}{plane.x(at)} {plane.y(value)}")
    pen = "L"
  return "".join(steps)


def line_chart(
  title: str,
  series: Sequence[Series],
  y_label: str,
  *,
  x_label: str = "step",
  form: Callable[..., str] = number,
  y_range: tuple[float, float] | None = None,
  zero: bool = False,
  note: str = "",
) -> str:
  """A figure with lines over steps; empty where no series has two points.

  Args:
    y_label: what and in which unit.
    form: of ticks and last values, `number` or `percent`.
    y_range: fixed range (accuracies); by default that of the data.
    zero: keep 0 in the range.
    note: one sentence below the title.
  """
  series = [s for s in series if sum(v is not None for v in s.y) > 1]
  if not series:
    return ""
  values = [v for s in series for v in s.y if v is not None]
  steps = [x for s in series for x in s.x]
  low, high = y_range or _robust(values, zero)
  plane = Plane((min(steps), max(steps)), (low, high), form)
  parts = list(plane.axes(x_label, y_label))
  legend, says = [], []
  for s in series:
    window = max(1, len(s.y) // 20)
    calm = smooth(s.y, window) if window > 1 else list(s.y)
    clip = lambda ys: [
      None if v is None else min(max(v, low), high) for v in ys
    ]
    if window > 1:
      x, y = thin(s.x, s.y)
      parts.append(
        f'<path class="raw {s.look}" d="{_path(plane, x, clip(y))}"/>'
      )
    x, y = thin(s.x, calm)
    parts.append(
      f'<path class="line {s.look}" d="{_path(plane, x, clip(y))}"/>'
    )
    last = next(v for v in reversed(calm) if v is not None)
    shown = form(last)
    says.append(f"{s.name} ends at {shown}")
    name = f"{escape(s.name)} " if len(series) > 1 else ""
    legend.append(f'<span class="key {s.look}">{name}<b>{shown}</b></span>')
  text = f'<p class="note">{escape(note)}</p>' if note else ""
  return (
    f'<figure class="chart"><figcaption><span class="name">{escape(title)}'
    f'</span><span class="keys">{"".join(legend)}</span></figcaption>{text}'
    f"{svg(parts, f'{title} over steps: ' + ', '.join(says), HEIGHT)}</figure>"
  )


def _robust(values: list[float], zero: bool) -> tuple[float, float]:
  """Range of the data with a little air; one outlier does not flatten it."""
  ordered = sorted(values)
  cut = len(ordered) // 100
  low, high = ordered[cut], ordered[len(ordered) - 1 - cut]
  if zero:
    low, high = min(low, 0.0), max(high, 0.0)
  low, high = _open(low, high)
  air = 0.06 * (high - low)
  return (low - air if low else low), (high + air if high else high)


@dataclasses.dataclass(frozen=True)
class Dot:
  """A value with its interval (equal to the value where there is none)."""

  name: str
  value: float
  low: float
  high: float
  look: str = "c"


def interval_chart(
  title: str,
  dots: Sequence[Dot],
  better: str,
  *,
  form: Callable[..., str] = percent,
  note: str = "",
) -> str:
  """A figure with one row per name: dot, 95% interval, value in figures."""
  if not dots:
    return ""
  low = min(dot.low for dot in dots)
  high = max(dot.high for dot in dots)
  air = 0.08 * ((high - low) or abs(high) or 1.0)
  low, high = max(0.0, low - air) if low >= 0 else low - air, high + air
  row, names, right = 24, 104, WIDTH - 50
  bottom = 8 + row * len(dots)
  x = lambda v: round(names + (v - low) / (high - low) * (right - names), 1)
  marks = ticks(low, high, 3)
  step = marks[1] - marks[0] if len(marks) > 1 else None
  parts = []
  for value in marks:
    parts.append(f'<path class="grid" d="M{x(value)} 4V{bottom}"/>')
    parts.append(
      f'<text class="tick mid" x="{x(value)}" y="{bottom + 14}">'
      f"{form(value, step)}</text>"
    )
  for index, dot in enumerate(dots):
    y = 8 + row * (index + 0.5)
    parts.append(
      f'<text class="row" x="0" y="{y + 4}">{escape(_cut(dot.name))}</text>'
      f'<path class="span {dot.look}" d="M{x(dot.low)} {y}H{x(dot.high)}"/>'
      f'<circle class="dot {dot.look}" cx="{x(dot.value)}" cy="{y}" r="4.5"/>'
      f'<text class="row end" x="{WIDTH}" y="{y + 4}">{form(dot.value)}</text>'
    )
  says = ", ".join(f"{dot.name} {form(dot.value)}" for dot in dots)
  text = f'<p class="note">{escape(note)}</p>' if note else ""
  return (
    f'<figure class="chart"><figcaption><span class="name">{escape(title)}'
    f'</span><span class="keys soft">{escape(better)}</span></figcaption>'
    f"{text}{svg(parts, f'{title}: {says}', bottom + 20)}</figure>"
  )


def _cut(name: str, most: int = 17) -> str:
  return name if len(name) <= most else name[: most - 1] + "…"
