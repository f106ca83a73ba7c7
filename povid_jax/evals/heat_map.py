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
  left = _enlarged(shown[:, is_image_S], 640, high)
  right = _enlarged(shown[:, ~is_image_S], 480, high)
  return _composed(left, right, tokens, title, top, high)


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
  left: Image.Image,
  right: Image.Image,
  tokens: Sequence[str],
  title: str,
  top: float,
  high: int,
) -> Image.Image:
  margin, gap, head = 96, 16, 52
  size = (
    max(margin + left.width + gap + right.width + 16, 560),
    head + left.height + 64,
  )
  canvas = Image.new("RGB", size, _PAPER)
  pen = ImageDraw.Draw(canvas)
  pen.text((16, 8), _plain(title), _INK, _font(15))
  x = margin + left.width + gap
  pen.text((margin, head - 19), "image tokens", _SOFT, _font(13))
  pen.text((x, head - 19), "text: prompt, then response", _SOFT, _font(13))
  canvas.paste(left, (margin, head))
  canvas.paste(right, (x, head))
  _label_rows(pen, tokens, margin, head, high)
  _legend(canvas, pen, (margin, head + left.height + 14), top)
  return canvas


def _label_rows(
  pen: ImageDraw.ImageDraw,
  tokens: Sequence[str],
  margin: int,
  head: int,
  high: int,
) -> None:
  """Names rows; every second, third, ... where they are too low for text."""
  every = -(-11 // high)
  for row in range(0, len(tokens), every):
    y = head + row * high + high / 2
    where = (margin - 6, y)
    pen.text(where, _plain(tokens[row])[:12], _INK, _font(11), anchor="rm")


def _legend(
  canvas: Image.Image,
  pen: ImageDraw.ImageDraw,
  where: tuple[int, int],
  top: float,
) -> None:
  x, y = where
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
