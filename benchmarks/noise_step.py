"""How much of a picture a noise step leaves, by model family.

  python -m benchmarks.noise_step --images DIR [--overflow clip]

For each step of the noise the correlation of the noisy pixels that the tower
sees with the clean ones, padding left out, as the mean over the pictures of
DIR: a family that shrinks pictures averages the noise away, one that enlarges
them keeps it. The last line is the step at which as much is left as LLaVA-1.5
has at --like (500, the paper's). No weights are needed; what a model does under
that noise is measured by `povid_jax.eval --benchmarks=noise_sweep`.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from PIL import Image

from povid_jax import errors
from povid_jax.data import layout as layouts
from povid_jax.data import noise
from povid_jax.data.image import open_image
from povid_jax.generate.__main__ import about_pictures
from povid_jax.models.presets import preset

# a column: a preset, and which of the squares of a picture are looked at
VIEWS = {
  "LLaVA-1.5": ("llava-1.5-7b", slice(None)),
  "NeXT, whole": ("llava-next-7b", slice(1)),
  "NeXT, tiles": ("llava-next-7b", slice(1, None)),
  "OneVision, whole": ("llava-onevision-7b", slice(1)),
  "OneVision, tiles": ("llava-onevision-7b", slice(1, None)),
  "Qwen2.5-VL": ("qwen2.5-vl-7b", slice(None)),
}


def _seen(name: str, image: np.ndarray) -> np.ndarray:
  """uint8: what the tower of a column sees of a picture."""
  model, part = VIEWS[name]
  cut = layouts.of(preset(model)).cut([Image.fromarray(image)])
  return cut.pixels[part]


def _left(name: str, image: np.ndarray, step: int, overflow: str) -> float:
  """Correlation of the noisy with the clean pixels of one picture."""
  dark, bright = (_seen(name, np.full_like(image, v)) for v in (0, 255))
  inside = dark != bright  # the rest is padding
  noisy = noise.distort(image, step, 0, overflow)  # type: ignore[arg-type]
  clean, noisy = (_seen(name, x)[inside] for x in (image, noisy))
  return float(np.corrcoef(clean, noisy)[0, 1])


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="benchmarks.noise_step",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--images", required=True, metavar="DIR", help="photographs")
  add(
    "--like",
    type=int,
    default=500,
    help="noise step of LLaVA-1.5 (%(default)s)",
  )
  add(
    "--every", type=int, default=50, help="steps from row to row (%(default)s)"
  )
  add("--overflow", choices=("wrap", "clip"), default="wrap")
  args = parser.parse_args(argv)
  found = about_pictures(args.images, "?")
  images = [np.asarray(open_image(question.images[0])) for question in found]
  steps = sorted({*range(args.every, noise.NUM_STEPS, args.every), args.like})
  mean = lambda name, step: float(
    np.mean([_left(name, image, step, args.overflow) for image in images])
  )
  table = {name: [mean(name, step) for step in steps] for name in VIEWS}
  print("step | " + " | ".join(VIEWS))
  for i, step in enumerate(steps):
    print(
      f"{step:4} | " + " | ".join(f"{row[i]:.2f}" for row in table.values())
    )
  wanted = table["LLaVA-1.5"][steps.index(args.like)]
  # less is left the later the step
  same = [np.interp(-wanted, -np.array(row), steps) for row in table.values()]
  print("same | " + " | ".join(f"{step:.0f}" for step in same))
  return 0


if __name__ == "__main__":
  errors.run(main)
