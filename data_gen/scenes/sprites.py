"""The objects as drawings, in coordinates from 0 to 1 (x right, y down)."""

import dataclasses
from collections.abc import Callable, Sequence

from PIL import ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Brush:
  """Draws on a square canvas of `side` pixels in coordinates from 0 to 1."""

  canvas: ImageDraw.ImageDraw
  side: int

  def box(
    self, x0: float, y0: float, x1: float, y1: float, fill: RGB,
    outline: RGB | None = None, radius: float = 0.0,
  ) -> None:  # fmt: skip
    """A rectangle, with round corners if `radius` is given."""
    shape = [x0 * self.side, y0 * self.side, x1 * self.side, y1 * self.side]
    width = round(0.035 * self.side) if outline else 0
    self.canvas.rounded_rectangle(
      shape, radius * self.side, fill, outline, width
    )

  def ellipse(
    self, x0: float, y0: float, x1: float, y1: float, fill: RGB | None,
    outline: RGB | None = None, width: float = 0.035,
  ) -> None:  # fmt: skip
    """An ellipse inside the given rectangle."""
    shape = [x0 * self.side, y0 * self.side, x1 * self.side, y1 * self.side]
    self.canvas.ellipse(shape, fill, outline, round(width * self.side))

  def half(
    self, x0: float, y0: float, x1: float, y1: float,
    start: int, end: int, fill: RGB, outline: RGB | None = None,
  ) -> None:  # fmt: skip
    """The part of an ellipse between two angles (degrees, clockwise)."""
    shape = [x0 * self.side, y0 * self.side, x1 * self.side, y1 * self.side]
    width = round(0.035 * self.side) if outline else 0
    self.canvas.chord(shape, start, end, fill, outline, width)

  def arc(
    self, x0: float, y0: float, x1: float, y1: float,
    start: int, end: int, fill: RGB, width: float,
  ) -> None:  # fmt: skip
    """A curved line."""
    shape = [x0 * self.side, y0 * self.side, x1 * self.side, y1 * self.side]
    self.canvas.arc(shape, start, end, fill, round(width * self.side))

  def polygon(
    self, points: Sequence[Point], fill: RGB, outline: RGB | None = None
  ) -> None:
    """A filled polygon."""
    shape = [(x * self.side, y * self.side) for x, y in points]
    width = round(0.035 * self.side) if outline else 0
    self.canvas.polygon(shape, fill, outline, width)

  def line(self, points: Sequence[Point], fill: RGB, width: float) -> None:
    """A line through the points."""
    shape = [(x * self.side, y * self.side) for x, y in points]
    self.canvas.line(shape, fill, round(width * self.side), joint="curve")


def _shade(color: RGB, factor: float) -> RGB:
  """A darker (below 1) or lighter (above 1) tone of a colour."""
  r, g, b = (max(0, min(255, round(c * factor))) for c in color)
  return r, g, b


STEEL = (176, 182, 194)
STEEL_EDGE = (104, 108, 122)
DARK = (48, 44, 46)


def _fork(brush: Brush, color: RGB) -> None:
  brush.box(0.3, 0.26, 0.7, 0.42, STEEL, STEEL_EDGE, radius=0.05)
  for x in (0.28, 0.44, 0.6):
    brush.box(x, 0.03, x + 0.12, 0.34, STEEL, STEEL_EDGE)
  brush.box(0.44, 0.38, 0.56, 0.56, STEEL, STEEL_EDGE)
  brush.box(0.41, 0.52, 0.59, 0.97, color, _shade(color, 0.5), radius=0.05)


def _knife(brush: Brush, color: RGB) -> None:
  blade = [(0.4, 0.54), (0.4, 0.03), (0.56, 0.1), (0.64, 0.3), (0.62, 0.54)]
  brush.polygon(blade, STEEL, STEEL_EDGE)
  brush.box(0.41, 0.52, 0.59, 0.97, color, _shade(color, 0.5), radius=0.05)


def _cup(brush: Brush, color: RGB) -> None:
  edge = _shade(color, 0.55)
  brush.ellipse(0.6, 0.4, 0.95, 0.74, None, edge, 0.08)
  brush.box(0.16, 0.3, 0.74, 0.86, color, edge, radius=0.12)
  brush.ellipse(0.16, 0.24, 0.74, 0.4, _shade(color, 0.75), edge)


def _bowl(brush: Brush, color: RGB) -> None:
  edge = _shade(color, 0.55)
  brush.box(0.34, 0.8, 0.66, 0.9, _shade(color, 0.7))
  brush.half(0.06, 0.0, 0.94, 0.88, 0, 180, color, edge)
  brush.ellipse(0.06, 0.34, 0.94, 0.52, _shade(color, 0.75), edge)


def _apple(brush: Brush, color: RGB) -> None:
  edge = _shade(color, 0.6)
  brush.ellipse(0.12, 0.2, 0.88, 0.94, color, edge)
  brush.ellipse(0.38, 0.14, 0.62, 0.3, _shade(color, 0.6))
  brush.line([(0.5, 0.26), (0.54, 0.04)], (90, 62, 40), 0.06)
  brush.ellipse(0.54, 0.04, 0.82, 0.16, (70, 140, 60))


def _sports_ball(brush: Brush, color: RGB) -> None:
  edge = _shade(color, 0.6)
  brush.ellipse(0.12, 0.14, 0.88, 0.9, color, edge)
  brush.arc(-0.28, 0.2, 0.36, 0.84, -58, 58, edge, 0.05)
  brush.arc(0.64, 0.2, 1.28, 0.84, 122, 238, edge, 0.05)
  brush.line([(0.14, 0.52), (0.86, 0.52)], edge, 0.05)


def _pet(brush: Brush, color: RGB) -> None:
  brush.ellipse(0.3, 0.48, 0.8, 0.96, color)
  brush.box(0.32, 0.7, 0.44, 0.97, color, radius=0.05)
  brush.box(0.64, 0.7, 0.76, 0.97, color, radius=0.05)
  brush.ellipse(0.16, 0.16, 0.62, 0.6, color)


def _face(brush: Brush, color: RGB) -> None:
  ink = (245, 245, 240) if sum(color) < 200 else DARK
  for x in (0.3, 0.46):
    brush.ellipse(x - 0.035, 0.3, x + 0.035, 0.38, ink)
  brush.ellipse(0.34, 0.43, 0.44, 0.5, ink)


def _cat(brush: Brush, color: RGB) -> None:
  _pet(brush, color)
  brush.polygon([(0.18, 0.34), (0.2, 0.02), (0.4, 0.2)], color)
  brush.polygon([(0.38, 0.2), (0.58, 0.02), (0.6, 0.34)], color)
  brush.arc(0.62, 0.3, 0.96, 0.86, -90, 110, color, 0.07)
  _face(brush, color)


def _dog(brush: Brush, color: RGB) -> None:
  _pet(brush, color)
  ear = _shade(color, 0.62)
  brush.ellipse(0.06, 0.16, 0.24, 0.58, ear)
  brush.ellipse(0.54, 0.16, 0.72, 0.58, ear)
  brush.line([(0.76, 0.62), (0.94, 0.42)], color, 0.08)
  _face(brush, color)


def _umbrella(brush: Brush, color: RGB) -> None:
  edge = _shade(color, 0.6)
  brush.line([(0.5, 0.3), (0.5, 0.86)], DARK, 0.05)
  brush.arc(0.5, 0.78, 0.7, 0.96, 0, 180, DARK, 0.05)
  brush.half(0.06, 0.08, 0.94, 0.92, 180, 360, color, edge)
  brush.line([(0.5, 0.1), (0.34, 0.5)], edge, 0.03)
  brush.line([(0.5, 0.1), (0.66, 0.5)], edge, 0.03)


def _kite(brush: Brush, color: RGB) -> None:
  edge = _shade(color, 0.6)
  points = [(0.5, 0.04), (0.86, 0.38), (0.5, 0.74), (0.14, 0.38)]
  brush.polygon(points, color, edge)
  brush.line([(0.5, 0.04), (0.5, 0.74)], edge, 0.03)
  brush.line([(0.14, 0.38), (0.86, 0.38)], edge, 0.03)
  brush.line([(0.5, 0.74), (0.58, 0.84), (0.46, 0.96)], DARK, 0.05)


def _bicycle(brush: Brush, color: RGB) -> None:
  for x in (0.04, 0.58):
    brush.ellipse(x, 0.52, x + 0.38, 0.9, None, DARK, 0.05)
  frame = [(0.23, 0.71), (0.38, 0.4), (0.68, 0.4), (0.48, 0.71), (0.23, 0.71)]
  brush.line(frame, color, 0.06)
  brush.line([(0.38, 0.4), (0.48, 0.71)], color, 0.06)
  brush.line([(0.77, 0.71), (0.66, 0.28), (0.78, 0.26)], color, 0.06)
  brush.line([(0.3, 0.34), (0.44, 0.34)], DARK, 0.06)


def _motorcycle(brush: Brush, color: RGB) -> None:
  for x in (0.03, 0.61):
    brush.ellipse(x, 0.54, x + 0.36, 0.9, DARK)
    brush.ellipse(x + 0.12, 0.66, x + 0.24, 0.78, STEEL)
  brush.polygon(
    [(0.1, 0.48), (0.5, 0.42), (0.7, 0.34), (0.72, 0.62), (0.34, 0.74)], color
  )
  brush.line([(0.79, 0.72), (0.66, 0.28), (0.8, 0.24)], STEEL, 0.06)
  brush.box(0.16, 0.38, 0.48, 0.46, DARK, radius=0.03)


def _book(brush: Brush, color: RGB) -> None:
  edge = _shade(color, 0.5)
  brush.box(0.14, 0.1, 0.86, 0.92, (240, 238, 226), edge)
  brush.box(0.14, 0.1, 0.8, 0.86, color, edge)
  brush.box(0.14, 0.1, 0.26, 0.86, _shade(color, 0.6))
  for y in (0.28, 0.4):
    brush.box(0.36, y, 0.7, y + 0.06, (244, 240, 220))


def _laptop(brush: Brush, color: RGB) -> None:
  edge = _shade(color, 0.5)
  brush.box(0.14, 0.14, 0.86, 0.64, color, edge, radius=0.04)
  brush.box(0.22, 0.22, 0.78, 0.57, (176, 208, 226))
  brush.polygon(
    [(0.14, 0.66), (0.86, 0.66), (0.96, 0.86), (0.04, 0.86)], color, edge
  )
  brush.line([(0.18, 0.75), (0.82, 0.75)], edge, 0.05)


def _chair(brush: Brush, color: RGB) -> None:
  leg = _shade(color, 0.6)
  brush.box(0.24, 0.06, 0.36, 0.6, leg)
  brush.box(0.24, 0.06, 0.44, 0.5, color, leg)
  brush.box(0.24, 0.52, 0.8, 0.64, color, leg)
  for x in (0.26, 0.7):
    brush.box(x, 0.64, x + 0.08, 0.96, leg)


def _bench(brush: Brush, color: RGB) -> None:
  leg = _shade(color, 0.6)
  for y in (0.26, 0.4):
    brush.box(0.06, y, 0.94, y + 0.1, color, leg)
  brush.box(0.04, 0.56, 0.96, 0.68, color, leg)
  for x in (0.12, 0.8):
    brush.box(x, 0.26, x + 0.08, 0.92, leg)


def _backpack(brush: Brush, color: RGB) -> None:
  edge = _shade(color, 0.55)
  brush.arc(0.38, 0.02, 0.62, 0.28, 180, 360, edge, 0.06)
  brush.box(0.18, 0.14, 0.82, 0.94, color, edge, radius=0.22)
  brush.box(0.3, 0.56, 0.7, 0.84, _shade(color, 0.75), edge, radius=0.06)
  brush.line([(0.24, 0.42), (0.76, 0.42)], edge, 0.05)


def _suitcase(brush: Brush, color: RGB) -> None:
  edge = _shade(color, 0.55)
  handle = [(0.38, 0.22), (0.38, 0.06), (0.62, 0.06), (0.62, 0.22)]
  brush.line(handle, edge, 0.05)
  brush.box(0.16, 0.2, 0.84, 0.88, color, edge, radius=0.06)
  for x in (0.32, 0.62):
    brush.box(x, 0.2, x + 0.06, 0.88, edge)
  for x in (0.24, 0.66):
    brush.box(x, 0.88, x + 0.1, 0.96, DARK)


SPRITES: dict[str, Callable[[Brush, RGB], None]] = {
  "fork": _fork,
  "knife": _knife,
  "cup": _cup,
  "bowl": _bowl,
  "apple": _apple,
  "sports ball": _sports_ball,
  "cat": _cat,
  "dog": _dog,
  "umbrella": _umbrella,
  "kite": _kite,
  "bicycle": _bicycle,
  "motorcycle": _motorcycle,
  "book": _book,
  "laptop": _laptop,
  "chair": _chair,
  "bench": _bench,
  "backpack": _backpack,
  "suitcase": _suitcase,
}
