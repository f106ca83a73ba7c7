r"""Answers before and after tuning as one PNG: the picture of README.md.

  E=runs/quickstart/eval
  python -m benchmarks.before_after $E/sft/in_distribution \
    $E/own_answers/in_distribution --scenes runs/quickstart/scenes \
    --out docs/before_after.png

BEFORE and AFTER are --out folders of povid_jax.eval with CHAIR. The pictures
are drawn at random among those about which BEFORE invents an object; what an
answer invents is red.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from povid_jax import bounds, errors, files
from povid_jax.errors import UserError
from povid_jax.report.pictures import Pictures

_CELL, _PICTURE, _GAP = (590, 226), (240, 180), 18
_INK, _SOFT, _RED, _PAPER = "#1d2126", "#5f6b76", "#c62828", "#ffffff"
_TEXT, _LINE = 15, 20  # size of letters and distance of lines
_TOP = 46  # pixels for the title


class Scored(NamedTuple):
  """The CHAIR results of one --out folder, by question."""

  answers: dict[str, dict[str, Any]]
  verdicts: dict[str, dict[str, Any]]

  def invents(self, key: str) -> bool:
    return bool(self.verdicts[key]["hallucinated"])


def read(folder: Path) -> Scored:
  """Raises UserError for a folder without answers and verdicts of CHAIR."""
  found = []
  for name in ("answers.jsonl", "verdicts.jsonl"):
    path = folder / name
    if not path.exists():
      raise UserError(f"{folder}: no {name}; want an --out of povid_jax.eval")
    rows = [r for r in files.json_objects(path) if r["benchmark"] == "chair"]
    found.append({str(row["question_id"]): row for row in rows})
  return Scored(*found)


def draw(
  before: Scored, after: Scored, pictures: Pictures, count: int, seed: int
) -> Image.Image:
  """`count` pictures, two a row, with both answers beside each.

  Raises:
    UserError: there are not so many pictures that both answer and that are at
      hand.
  """
  both = sorted(set(before.verdicts) & set(after.verdicts))
  wrong = [key for key in both if before.invents(key)]
  keys = random.Random(seed).sample(wrong, min(count, len(wrong)))
  if not keys:
    raise UserError("no picture about which the first folder invents an object")
  width, height = _CELL
  rows = -(-len(keys) // 2)
  sheet = Image.new("RGB", (2 * width + _GAP, _TOP + rows * height), _PAPER)
  pen = ImageDraw.Draw(sheet)
  share = [sum(map(s.invents, both)) / len(both) for s in (before, after)]
  title = (
    f"Answers with an invented object (red): {share[0]:.1%} before, "
    f"{share[1]:.1%} after, of {len(both):,}. Shown: {len(keys)} drawn at "
    "random among those that invented one before."
  )
  pen.text((_GAP, 14), title, _INK, ImageFont.load_default(16))
  for number, key in enumerate(keys):
    x = _GAP + number % 2 * width
    y = _TOP + number // 2 * height
    row = before.answers[key]
    path = pictures.of_row(key, row)
    if path is None:
      raise UserError(f"picture {key} is not in --scenes")
    with Image.open(path) as picture:
      sheet.paste(picture.convert("RGB").resize(_PICTURE), (x, y))
    left = x + _PICTURE[0] + 14
    for name, scored in (("before", before), ("after", after)):
      pen.text((left, y), name, _SOFT, ImageFont.load_default(13))
      y = _write(pen, scored, key, left, y + 18, width - _PICTURE[0] - 34) + 8
  return sheet


def _write(
  pen: ImageDraw.ImageDraw, scored: Scored, key: str, x: int, y: int, width: int
) -> int:
  """Writes an answer in lines of `width` pixels; returns y below it."""
  font = ImageFont.load_default(_TEXT)
  blank, at = pen.textlength(" ", font), 0.0
  for word, bad in _words(scored, key):
    size = pen.textlength(word, font)
    if at and at + size > width:
      y, at = y + _LINE, 0.0
    pen.text((x + at, y), word, _RED if bad else _INK, font)
    if bad:
      pen.line((x + at, y + 17, x + at + size, y + 17), _RED)
    at += size + blank
  return y + _LINE


def _words(scored: Scored, key: str) -> Iterator[tuple[str, bool]]:
  """The words of an answer, and whether each is of an invented object."""
  text = scored.answers[key]["text"]
  wrong = [m for m in scored.verdicts[key]["mentions"] if m["hallucinated"]]
  end = 0
  for word in text.split():
    start = text.index(word, end)
    end = start + len(word)
    yield word, any(m["start"] < end and start < m["end"] for m in wrong)


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.before_after",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("before", type=Path, help="an --out folder of povid_jax.eval")
  add("after", type=Path, help="another one for the same pictures")
  add(
    "--scenes",
    type=Path,
    required=True,
    help="folder of data_gen scenes, with pictures and annotations",
  )
  add("--out", type=Path, required=True, help="a PNG file")
  add("--count", type=bounds.whole(1, 100), default=4, help="(%(default)s)")
  add(
    "--seed",
    type=bounds.SEED,
    default=0,
    help="seed of the random choice (%(default)s)",
  )
  args = parser.parse_args(argv)
  before, after = read(args.before), read(args.after)
  pictures = Pictures([args.scenes])
  sheet = draw(before, after, pictures, args.count, args.seed)
  sheet = sheet.quantize(128)  # a third of the bytes, no difference to see
  with files.atomic_write(args.out, "wb") as file:
    sheet.save(file, "PNG", optimize=True)
  print(f"{args.out} ({args.out.stat().st_size / 1e3:.0f} kB)")
  return 0


if __name__ == "__main__":
  errors.run(main)
