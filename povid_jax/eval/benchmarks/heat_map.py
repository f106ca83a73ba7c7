"""Attention as a picture: a row per generated token, image left, text right."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# our own colours: dark blue, violet, red, orange, pale yellow; their lightness
# rises evenly, so the map reads the same in grey and to colour-blind eyes
_STOPS = np.array(
  [
    (12, 14, 42),
    (66, 30, 110),
    (150, 44, 110),
    (222, 84, 66),
    (250, 160, 60),
    (252, 244, 190),
  ],
  float,
)
_INK, _SOFT, _PAPER = (30, 34, 40), (96, 104, 112), (255, 255, 255)
_UNSEEN = np.array((228, 231, 235), np.uint8)  # later tokens: no attention
DECADES = 3  # of the logarithmic scale
_LEFT, _HEAD, _GAP = 96, 52, 16  # pixels: row labels, title, between panels


def colours(values: np.ndarray) -> np.ndarray:
  """0..1 to uint8[..., 3], piecewise linear between the stops."""
  place = np.clip(values, 0, 1) * (len(_STOPS) - 1)
  low = np.minimum(place.astype(int), len(_STOPS) - 2)
  part = (place - low)[..., None]
  mixed = _STOPS[low] * (1 - part) + _STOPS[low + 1] * part
  return mixed.round().astype(np.uint8)


def scaled(weights: np.ndarray, top: float) -> np.ndarray:
  """Weights on a log scale: 1 at `top`, 0 at top / 10**DECADES and below."""
  tiny = np.finfo(np.float32).tiny
  return 1 + np.log10(np.maximum(weights, tiny) / top) / DECADES


def draw(
  weights_CS: np.ndarray,
  is_image_S: np.ndarray,
  tokens: Sequence[str],
  title: str,
) -> Image.Image:
  """The heat map of one response.

  Args:
    weights_CS: float[C, S], the attention of each of C response tokens to the
      S tokens of prompt and response (the last C columns).
    is_image_S: bool[S].
    tokens: C row labels.
    title: written above.

  Returns:
    A picture; both sides share one logarithmic scale, shown below.
  """
  count, width = weights_CS.shape
  unseen = np.zeros((count, width), bool)
  unseen[:, width - count :] = ~np.tri(count, k=-1, dtype=bool)
  shown = colours(scaled(weights_CS, top := _top(weights_CS)))
  shown[unseen] = _UNSEEN
  high = int(np.clip(720 // max(count, 1), 4, 18))
  panels = (
    (f"{is_image_S.sum()} image tokens", shown[:, is_image_S], 640),
    ("text: prompt, then response", shown[:, ~is_image_S], 480),
  )
  sides = [(name, _enlarged(cells, w, high)) for name, cells, w in panels]
  canvas, below = _composed(sides, title)
  pen = ImageDraw.Draw(canvas)
  _label_rows(pen, tokens, high)
  _legend(canvas, pen, below, top)
  return canvas


def _top(weights: np.ndarray) -> float:
  """Where the scale ends: the first token draws most attention everywhere and
  would leave nothing to see, so a few cells may be beyond it."""
  seen = weights[weights > 0]
  return float(np.quantile(seen, 0.995)) if seen.size else 1.0


def _enlarged(cells: np.ndarray, width: int, high: int) -> Image.Image:
  """Cells of a whole number of pixels each, about `width` in all."""
  wide = int(np.clip(width // max(cells.shape[1], 1), 1, 18))
  return Image.fromarray(cells.repeat(high, 0).repeat(wide, 1))


def _composed(
  sides: Sequence[tuple[str, Image.Image]], title: str
) -> tuple[Image.Image, int]:
  """The panels side by side with their names, and where the legend begins."""
  height = max(panel.height for _, panel in sides)
  width = _LEFT + sum(panel.width + _GAP for _, panel in sides)
  canvas = Image.new("RGB", (max(width, 560), _HEAD + height + 64), _PAPER)
  pen, x = ImageDraw.Draw(canvas), _LEFT
  pen.text((_GAP, 8), _plain(title), _INK, _font(15))
  for name, panel in sides:
    pen.text((x, _HEAD - 19), name, _SOFT, _font(13))
    canvas.paste(panel, (x, _HEAD))
    x += panel.width + _GAP
  return canvas, _HEAD + height + 14


def _label_rows(
  pen: ImageDraw.ImageDraw, tokens: Sequence[str], high: int
) -> None:
  """Names rows; every second, third, ... where they are too low for text."""
  every = -(-11 // high)
  for row in range(0, len(tokens), every):
    where = (_LEFT - 6, _HEAD + row * high + high / 2)
    pen.text(where, _plain(tokens[row])[:12], _INK, _font(11), anchor="rm")


def _legend(
  canvas: Image.Image,
  pen: ImageDraw.ImageDraw,
  y: int,
  top: float,
) -> None:
  x = _LEFT
  ramp = colours(np.linspace(0, 1, 240))[None].repeat(12, 0)
  canvas.paste(Image.fromarray(ramp), (x, y))
  font = _font(11)
  low = f"{top / 10**DECADES:.1g} or less"
  pen.text((x, y + 16), low, _SOFT, font)
  pen.text((x + 240, y + 16), f"{top:.2g}", _SOFT, font, anchor="ra")
  note = "attention of one token (log), mean over layers and heads"
  pen.text((x + 256, y - 1), note, _SOFT, font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
  return ImageFont.load_default(size)


def _plain(text: str) -> str:
  """Characters that Pillow's own font has."""
  return text.encode("latin-1", "replace").decode("latin-1")
