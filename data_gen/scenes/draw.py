"""Draws scenes with Pillow: a place, then each object as a small picture."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from data_gen.scenes.sprites import SPRITES, Brush
from data_gen.scenes.world import GRID, Scene

COLORS = {
  "black": (45, 45, 52),
  "white": (235, 235, 232),
  "red": (205, 50, 48),
  "green": (60, 150, 70),
  "blue": (55, 90, 205),
  "yellow": (232, 196, 50),
  "purple": (140, 70, 170),
  "brown": (130, 88, 55),
  "orange": (232, 130, 45),
}

Box = tuple[float, float, float, float]  # x, y, width, height in pixels


@dataclasses.dataclass(frozen=True)
class Camera:
  """How a scene is photographed; what makes looking hard.

  Attributes:
    size: side of the picture in pixels.
    grain: standard deviation of the pixel noise, on a scale of 0..1.
    scale: smallest and largest side of an object, as a share of its cell.
    fade: smallest and largest opacity of an object (low contrast).
  """

  size: int = 60
  grain: float = 0.03
  scale: tuple[float, float] = (0.85, 1.05)
  fade: tuple[float, float] = (0.8, 1.0)


def draw(
  scene: Scene, camera: Camera, rng: np.random.Generator
) -> tuple[Image.Image, list[Box]]:
  """Draws a scene; returns the RGB picture and each object's box."""
  variant = int(rng.integers(_VARIANTS))
  picture = _background(scene.place, variant, camera.size).copy()
  boxes = []
  for thing in scene.things:
    side, left, top = _placement(thing.cell, camera, rng)
    sprite = _sized(thing.kind, thing.color, side)
    if rng.random() < 0.5:
      sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    alpha = sprite.getchannel("A")
    shown = alpha.getbbox() or (0, 0, side, side)
    fade = rng.uniform(*camera.fade)
    faded = (np.arange(256) * fade).astype(int).tolist()
    picture.paste(sprite, (left, top), alpha.point(faded))
    boxes.append(_box(left, top, shown, camera.size))
  return _grain(picture, camera.grain, rng), boxes


def _placement(
  cell: int, camera: Camera, rng: np.random.Generator
) -> tuple[int, int, int]:
  """Side and top left corner of an object: its cell's centre, jittered."""
  pitch = camera.size / GRID
  side = round(pitch * rng.uniform(*camera.scale))
  jitter = rng.uniform(-0.08, 0.08, 2) * pitch
  row, column = divmod(cell, GRID)
  left = (column + 0.5) * pitch + jitter[0] - side / 2
  top = (row + 0.5) * pitch + jitter[1] - side / 2
  edge = camera.size - side
  return side, int(np.clip(left, 0, edge)), int(np.clip(top, 0, edge))


def _box(left: int, top: int, shown: tuple[int, ...], size: int) -> Box:
  x0, y0 = max(left + shown[0], 0), max(top + shown[1], 0)
  x1, y1 = min(left + shown[2], size), min(top + shown[3], size)
  return float(x0), float(y0), float(x1 - x0), float(y1 - y0)


def _grain(
  picture: Image.Image, grain: float, rng: np.random.Generator
) -> Image.Image:
  pixels = np.asarray(picture, np.float32)
  noise = rng.standard_normal(pixels.shape, np.float32) * (255 * grain)
  return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


_MASTER = 96  # sprites are drawn once at this size and scaled down
_VARIANTS = 8  # backgrounds of each place


@functools.cache
def _master(kind: str, color: str) -> Image.Image:
  image = Image.new("RGBA", (_MASTER, _MASTER), (0, 0, 0, 0))
  SPRITES[kind](Brush(ImageDraw.Draw(image), _MASTER), COLORS[color])
  return image


@functools.cache
def _sized(kind: str, color: str, side: int) -> Image.Image:
  return _master(kind, color).resize((side, side), Image.Resampling.BOX)


@functools.cache
def _background(place: str, variant: int, size: int) -> Image.Image:
  """One of a place's few backgrounds, drawn large and scaled down."""
  rng = np.random.default_rng([variant, sum(place.encode())])
  image = Image.new("RGB", (_MASTER * 2, _MASTER * 2))
  shift = float(rng.uniform(-0.06, 0.06))
  _PLACES[place](Brush(ImageDraw.Draw(image), _MASTER * 2), shift)
  tint = rng.uniform(0.92, 1.08, 3)
  pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX))
  return Image.fromarray(np.clip(pixels * tint, 0, 255).astype(np.uint8))


def _kitchen(brush: Brush, shift: float) -> None:
  brush.box(0, 0, 1, 1, (214, 206, 190))
  for line in range(1, 8):  # tiles
    brush.line([(line / 8, 0), (line / 8, 1)], (198, 190, 174), 0.008)
    brush.line([(0, line / 8), (1, line / 8)], (198, 190, 174), 0.008)
  brush.box(0, 0.62 + shift, 1, 0.68 + shift, (168, 138, 105))
  brush.box(0, 0.68 + shift, 1, 1, (196, 170, 135))


def _living_room(brush: Brush, shift: float) -> None:
  brush.box(0, 0, 1, 1, (196, 180, 200))
  for line in range(10):  # wallpaper
    brush.box(line / 10, 0, line / 10 + 0.04, 0.62 + shift, (188, 170, 192))
  brush.box(0, 0.62 + shift, 1, 1, (160, 124, 112))
  brush.ellipse(0.1, 0.7 + shift, 0.9, 0.98, (176, 142, 128))


def _park(brush: Brush, shift: float) -> None:
  brush.box(0, 0, 1, 0.42 + shift, (170, 205, 228))
  brush.box(0, 0.42 + shift, 1, 1, (146, 190, 122))
  for x in (0.12, 0.5, 0.83):  # trees at the horizon
    brush.ellipse(
      x - 0.12, 0.26 + shift, x + 0.12, 0.48 + shift, (118, 168, 108)
    )


def _street(brush: Brush, shift: float) -> None:
  brush.box(0, 0, 1, 1, (190, 190, 196))
  for x, height in ((0.02, 0.12), (0.36, 0.2), (0.7, 0.08)):  # houses
    brush.box(x, height + shift, x + 0.28, 0.62, (172, 165, 166))
  brush.box(0, 0.55 + shift, 1, 1, (142, 142, 148))
  for x in (0.05, 0.4, 0.75):  # lane
    brush.box(x, 0.8, x + 0.2, 0.83, (200, 200, 196))


def _beach(brush: Brush, shift: float) -> None:
  brush.box(0, 0, 1, 0.3 + shift, (182, 214, 238))
  brush.box(0, 0.3 + shift, 1, 0.48 + shift, (108, 176, 202))
  brush.box(0, 0.48 + shift, 1, 1, (230, 212, 166))


_PLACES: dict[str, Callable[[Brush, float], None]] = {
  "kitchen": _kitchen,
  "living room": _living_room,
  "park": _park,
  "street": _street,
  "beach": _beach,
}
