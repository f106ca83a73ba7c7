"""The training data: the noise ladder and the pairs."""

import random
from collections.abc import Iterator

import numpy as np
from PIL import Image

from povid_jax.data import noise
from povid_jax.data.image import open_image
from povid_jax.data.pairs import Sample, to_record
from povid_jax.errors import UserError
from povid_jax.report.captions import img, of_file
from povid_jax.report.html import escape, sides
from povid_jax.report.load import Run

STEPS = (0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999)
_OVERFLOWS: tuple[tuple[noise.Overflow, str], ...] = (
  ("wrap", "wrap: bytes that leave 0..255 come back at the other end, as in "
   "the released code"),
  ("clip", "clip: bytes stop at 0 and 255"),
)  # fmt: skip
SIDE = 480  # longest side before noise: larger pictures make the page too big


def ladder(run: Run, seed: int = 0) -> str:
  """One picture under ever more noise, both ways of treating overflow."""
  found = _one_picture(run)
  if found is None:
    return ""
  name, picture = found
  used = dict(_noise_steps(run))
  rows = []
  for overflow, words in _OVERFLOWS:
    figures = "".join(
      _rung(picture, step, noise.seed_for(seed, name, None), overflow, used)
      for step in STEPS
    )
    rows.append(f'<h3>{escape(words)}</h3><div class="ladder">{figures}</div>')
  where = ", ".join(
    f"step {step} ({overflow})" for overflow, step in used.items()
  )
  used_words = f" This run used {where}." if where else ""
  return (
    '<section id="noise"><h2>The noise ladder</h2><p class="lead">The tokens '
    "that a model prefers under a distorted picture are the noise-triggered "
    "negatives. Step 0 leaves the picture nearly as it is, step 999 leaves "
    f"8% of its variance.{escape(used_words)}</p>{''.join(rows)}</section>"
  )


def _rung(
  picture: np.ndarray,
  step: int,
  seed: int,
  overflow: noise.Overflow,
  used: dict[str, int],
) -> str:
  noisy = Image.fromarray(noise.distort(picture, step, seed, overflow))
  kept = np.sqrt(noise.ALPHA_BAR[step])
  kind = ' class="used"' if used.get(overflow) == step else ""
  return (
    f"<figure{kind}>{img(noisy, f'step {step}, {overflow}', 240)}"
    f"<figcaption>step {step}<br>signal {kept:.2f}</figcaption></figure>"
  )


def _noise_steps(run: Run) -> Iterator[tuple[str, int]]:
  """(overflow, step) of the stages whose objective uses noise."""
  for stage in run.stages:
    if any("margin/noise" in row for row in stage.rows):
      settings = (stage.config or {}).get("noise") or {}
      if "step" in settings:
        yield settings.get("overflow", "wrap"), int(settings["step"])


def _one_picture(run: Run) -> tuple[str, np.ndarray] | None:
  """The first picture of the pairs, else of the captions, that opens."""
  names = [
    (sample.id, run.pictures.find(image.name))
    for sample in run.pairs[:20]
    for image in sample.images[:1]
  ]
  if not any(path for _, path in names):
    for evaluation in run.evaluations[:1]:
      names += [
        (key, run.pictures.of_row(key, row))
        for key, row in list(evaluation.answers.items())[:20]
      ]
  for name, path in names:
    if path is None:
      continue
    try:
      picture = open_image(path)
    except UserError:
      continue
    picture.thumbnail((SIDE, SIDE))
    return name, np.asarray(picture)
  return None


def pairs(run: Run, count: int, seed: int = 0) -> str:
  """Chosen and rejected answers with the injected differences marked."""
  if not run.pairs:
    return ""
  drawn = random.Random(seed).sample(run.pairs, min(count, len(run.pairs)))
  cards = "".join(_pair(run, sample) for sample in drawn)
  return (
    '<section id="pairs"><h2>Preference pairs</h2><p class="lead">'
    f"{len(drawn)} of {len(run.pairs):,} pairs, drawn at random (seed "
    f"{seed}). The chosen answer is the data's own, its changed words "
    '<mark class="good">marked</mark>; the rejected one has '
    '<mark class="bad">hallucinations</mark> injected. Text in <span '
    'class="soft">grey</span> is the context, which is not scored.</p>'
    f"{cards}</section>"
  )


def _pair(run: Run, sample: Sample) -> str:
  record = to_record(sample, ())
  question = record.prompt_turns[-1].replace("<image>", "").strip()
  answers = sides(
    "\n".join(record.chosen[::2]),
    [("\n".join(r.turns[::2]), r.weight) for r in record.every_rejected],
    record.context,
    record.scores_end,
  )
  kinds = dict.fromkeys(
    str(edit["kind"])
    for edit in sample.extra.get("edits") or []
    if isinstance(edit, dict) and edit.get("kind")
  )
  chips = " ".join(f'<span class="chip">{escape(k)}</span>' for k in kinds)
  return (
    f'<article class="pair"><figure class="picture">{_picture(run, sample)}'
    f'</figure><div><p class="prompt">{escape(question)}</p>'
    f'{answers}<p class="chips">{chips}</p></div></article>'
  )


def _picture(run: Run, sample: Sample) -> str:
  path = run.pictures.find(sample.images[0].name) if sample.images else None
  return of_file(path, f"picture of pair {sample.id}")
