"""Pictures with what each stage says about them, side by side."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from povid_jax.data.image import open_image
from povid_jax.errors import UserError
from povid_jax.report import html, scores
from povid_jax.report.html import escape
from povid_jax.report.load import Evaluation, Run

SHOWN_STAGES = ("sft", "base", "stage1", "stage2", "own_answers")


def section(run: Run, count: int, seed: int = 0) -> str:
  """How many captions became right or wrong, and `count` of them."""
  for split in scores.splits(run):
    stages = _stages(scores.of_split(run, split))
    if not stages:
      continue
    common = [
      key
      for key in stages[0].verdicts
      if all(key in s.verdicts and key in s.answers for s in stages)
    ]
    if not common:
      continue
    drawn = draw(stages, common, count, seed)
    cards = "".join(_card(run, stages, key) for key in drawn)
    return (
      '<section id="captions"><h2>What the models say</h2>'
      f"{_lead(stages, common, len(drawn), seed)}{_tally(stages, common)}"
      f"{cards}</section>"
    )
  return ""


def _stages(found: Sequence[Evaluation]) -> list[Evaluation]:
  """The stages of the method if they are there, else the first three."""
  read = [e for e in found if e.verdicts and e.answers]
  return [e for e in read if e.stage in SHOWN_STAGES] or read[:3]


def draw(
  stages: Sequence[Evaluation], common: Sequence[str], count: int, seed: int
) -> list[str]:
  """Pictures at random among those where any stage invents an object.

  If there are too few, the rest comes from all the others.
  """
  wrong = [
    key
    for key in common
    if any(s.verdicts[key].get("hallucinated") for s in stages)
  ]
  rng = random.Random(seed)
  drawn = rng.sample(wrong, min(count, len(wrong)))
  others = [key for key in common if key not in set(wrong)]
  return drawn + rng.sample(others, min(count - len(drawn), len(others)))


def _lead(
  stages: Sequence[Evaluation], common: Sequence[str], count: int, seed: int
) -> str:
  names = ", ".join(scores.stage_name(s.stage) for s in stages)
  return (
    f'<p class="lead">{count} of {len(common):,} test pictures '
    f"({escape(scores.split_name(stages[0].split))}), drawn at random "
    f"(seed {seed}) among those where any of {escape(names)} names an object "
    'that is not there; none was chosen by hand. <mark class="bad">Invented '
    'objects</mark> are red and underlined, <span class="chip">objects left '
    "out</span> grey.</p>"
  )


def _tally(stages: Sequence[Evaluation], common: Sequence[str]) -> str:
  """A bar: captions mended, broken, right and wrong in both."""
  if len(stages) < 2:
    return ""
  counts = {"fixed": 0, "wrong": 0, "broken": 0, "right": 0}
  for key in common:
    before, after = (
      bool(s.verdicts[key].get("hallucinated")) for s in (stages[0], stages[-1])
    )
    name = {
      (True, False): "fixed",
      (True, True): "wrong",
      (False, True): "broken",
      (False, False): "right",
    }[before, after]
    counts[name] += 1
  words = {
    "fixed": "inventions gone",
    "wrong": "inventions in both",
    "broken": "newly invented",
    "right": "none in either",
  }
  colours = {
    "fixed": "var(--blue)",
    "wrong": "var(--grey)",
    "broken": "var(--orange)",
    "right": "var(--line)",
  }
  bar = "".join(
    f'<span class="{name}" style="flex:{number}"></span>'
    for name, number in counts.items()
    if number
  )
  keys = "".join(
    f'<li style="--swatch:{colours[name]}"><b>{number:,}</b> {words[name]}</li>'
    for name, number in counts.items()
  )
  first, last = (scores.stage_name(s.stage) for s in (stages[0], stages[-1]))
  return (
    f'<p class="lead"><b>{escape(first)} → {escape(last)}</b>, all '
    f"{len(common):,} captions:</p>"
    f'<div class="tally" aria-hidden="true">{bar}</div>'
    f'<ul class="tally-keys">{keys}</ul>'
  )


def _card(run: Run, stages: Sequence[Evaluation], key: str) -> str:
  row, verdict = stages[0].answers[key], stages[0].verdicts[key]
  objects = ", ".join(verdict.get("objects") or []) or "nothing annotated"
  answers = "".join(
    _answer(scores.stage_name(s.stage), s.answers[key], s.verdicts[key])
    for s in stages
  )
  return (
    f'<article class="example"><figure class="picture">'
    f"{picture(run, key, row)}<figcaption>In the picture: "
    f"{escape(objects)}</figcaption></figure>"
    f'<div class="answers">{answers}</div></article>'
  )


def picture(run: Run, key: str, row: dict[str, Any]) -> str:
  """An img of a row's picture, or a text if it cannot be shown."""
  path = run.pictures.of_row(key, row)
  return of_file(path, f"test picture {key}")


def of_file(path: Path | None, alt: str) -> str:
  """An img of a file, or a text if the file is missing or not a picture."""
  if path is None:
    return f'<p class="soft">{escape(alt)}: picture not found</p>'
  try:
    return img(open_image(path), alt)
  except UserError:
    return f'<p class="soft">{escape(alt)}: picture cannot be opened</p>'


def img(opened: Image.Image, alt: str, side: int = 360) -> str:
  """An img; small pictures are enlarged in whole pixels, not blurred."""
  small = max(opened.size) < 160
  kind = ' class="small"' if small else ""
  width, height = opened.size
  return (
    f'<img{kind} loading="lazy" alt="{escape(alt)}" width="{width}" '
    f'height="{height}" src="{html.thumbnail(opened, side)}">'
  )


def _answer(name: str, row: dict[str, Any], verdict: dict[str, Any]) -> str:
  text = marked(str(row.get("text", "")), verdict.get("mentions") or [])
  missed = verdict.get("missed") or []
  left_out = "".join(f"<span>{escape(name)}</span>" for name in missed)
  if left_out:
    left_out = f'<p class="missed">left out: {left_out}</p>'
  wrong = len(verdict.get("hallucinated") or [])
  count = f'<span class="count">, {wrong} invented</span>' if wrong else ""
  return (
    f'<div class="answer"><h4>{escape(name)}{count}</h4>'
    f"<p>{text}</p>{left_out}</div>"
  )


def marked(text: str, mentions: Iterable[dict[str, Any]]) -> str:
  """Text as HTML with hallucinated mentions marked.

  Args:
    mentions: {"start", "end", "hallucinated"}: characters of `text`; spans
      that overlap an earlier one or leave the text are passed over.
  """
  pieces, place = [], 0
  for mention in sorted(mentions, key=lambda m: m["start"]):
    start, end = mention["start"], mention["end"]
    if not mention.get("hallucinated") or not place <= start < end <= len(text):
      continue
    pieces.append(escape(text[place:start]))
    pieces.append(f'<mark class="bad">{escape(text[start:end])}</mark>')
    place = end
  return "".join([*pieces, escape(text[place:])])
