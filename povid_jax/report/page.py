"""Puts the sections of a run on one page."""

import datetime
from pathlib import Path

from povid_jax import __version__
from povid_jax.report import (
  captions,
  data,
  html,
  provenance,
  results,
  scores,
  training,
)
from povid_jax.report.html import escape
from povid_jax.report.load import Run

_TITLES = {
  "results": "Before and after",
  "captions": "What the models say",
  "training": "Training",
  "noise": "Noise ladder",
  "pairs": "Preference pairs",
  "how": "How this was made",
}


def build(
  run: Run, *, examples: int = 20, pairs: int = 8, seed: int = 0
) -> str:
  """The whole document.

  Args:
    examples: pictures with captions side by side.
    pairs: preference pairs.
    seed: of the random draw of both.
  """
  sections = {
    "results": results.section(run),
    "captions": captions.section(run, examples, seed),
    "training": training.section(run),
    "noise": data.ladder(run, seed),
    "pairs": data.pairs(run, pairs, seed),
    "how": provenance.section(run),
  }
  links = "".join(
    f'<a href="#{name}">{_TITLES[name]}</a>'
    for name, text in sections.items()
    if text
  )
  title = scores.headline(run)
  body = (
    f'<header class="top"><p class="kicker">{escape(_kicker(run))}</p>'
    f"<h1>{escape(title)}</h1>{_between(run)}{results.tiles(run)}</header>"
    f'<nav class="toc" aria-label="Sections">{links}</nav>'
    f"<main>{''.join(sections.values())}</main>"
    f"<footer>povid_jax {__version__}, {_today()}. POVID: arXiv 2402.11411. "
    "This file needs no network and no other file.</footer>"
  )
  style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
  return html.page(f"{title} - {run.title}", body, style)


def _kicker(run: Run) -> str:
  facts = [f"POVID · {run.title}"]
  if "seed" in run.summary:
    facts.append(f"seed {run.summary['seed']}")
  if "seconds" in run.summary:
    facts.append(f"{training.duration(run.summary['seconds'])} in all")
  return " · ".join(facts)


def _between(run: Run) -> str:
  """What the tiles compare, in one sentence."""
  for split in scores.splits(run):
    pair = scores.ends(scores.of_split(run, split))
    if pair is None:
      continue
    first, last = (scores.stage_name(e.stage) for e in pair)
    return (
      f'<p class="lead"><b>{escape(first)}</b> against <b>{escape(last)}</b>, '
      f"{escape(scores.split_name(split).lower())}. Changes with 95% "
      "intervals, paired by picture; grey where they may be chance.</p>"
    )
  return ""


def _today() -> str:
  return datetime.date.today().isoformat()
