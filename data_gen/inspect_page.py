"""The page of `data_gen inspect --html`: pairs, pictures, noise, counts.

Readable without its script, which only adds search and filters.
"""

from collections.abc import Sequence

import numpy as np

from data_gen.inspect_stats import Histogram, Pair, Stats, text_of
from povid_jax.data import noise
from povid_jax.data.image import open_image
from povid_jax.errors import UserError
from povid_jax.progress import bar
from povid_jax.report import html

OVERFLOWS: dict[noise.Overflow, str] = {
  "wrap": "bytes wrap around, as in the released code",
  "clip": "values are clipped",
}
STRIP_STEPS = (0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999)
_SIDE = 280  # of a picture beside its text, in pixels

STYLE = """
.tools { position: sticky; top: 0; z-index: 1; display: flex; gap: .5rem;
  flex-wrap: wrap; padding: .6rem 0; background: var(--paper);
  border-bottom: 1px solid var(--line); }
.tools[hidden] { display: none; }
.tools input, .tools select { font: inherit; padding: .3rem .5rem;
  color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; }
.tools input { flex: 1 1 12rem; min-width: 0; }
.tools select { max-width: 12rem; }
.tools output { align-self: center; color: var(--soft); }
.pair { display: grid; grid-template-columns: minmax(0, 21rem) minmax(0, 1fr);
  gap: 1rem; padding: 1rem; margin: 1rem 0; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; }
.pair[hidden] { display: none; }
.pair h3 { font-size: .95rem; margin: 0; overflow-wrap: anywhere; }
.pair header { grid-column: 1 / -1; display: flex; flex-wrap: wrap;
  gap: .25rem .6rem; align-items: baseline; }
.tag { font-size: .8rem; color: var(--soft); border: 1px solid var(--line);
  border-radius: 99px; padding: 0 .5rem; }
.twins { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem;
  align-content: start; }
.prompt { color: var(--soft); margin: 0 0 .5rem; white-space: pre-line; }
.strip { display: grid; gap: .5rem; overflow-x: auto; padding-bottom: .5rem;
  grid-template-columns: repeat(11, minmax(5.9rem, 1fr)); }
.counts { columns: 19rem; column-gap: 2.5rem; }
.counts > div { break-inside: avoid; padding-bottom: 1.1rem; }
.counts h3 { font-size: .95rem; margin: 0 0 .3rem; }
.counts table { width: 100%; font-size: .9rem; }
.bars { display: grid; grid-template-columns: auto auto 1fr; gap: 2px .6rem;
  font-size: .85rem; font-variant-numeric: tabular-nums;
  align-items: center; }
.bars span { text-align: right; }
.bars i { display: block; height: .8em; border-radius: 0 3px 3px 0;
  background: var(--accent); }
@media (max-width: 46rem) {
  .pair { grid-template-columns: minmax(0, 1fr); } }
"""

SCRIPT = """
const tools = document.querySelector('.tools');
const pairs = [...document.querySelectorAll('.pair')];
const texts = pairs.map(pair => pair.innerText.toLowerCase());
const find = tools.querySelector('input');
const selects = [...tools.querySelectorAll('select')];
function show() {
  const words = find.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let count = 0;
  pairs.forEach((pair, i) => {
    const fits = words.every(word => texts[i].includes(word)) &&
      selects.every(select => !select.value ||
        pair.dataset[select.name].split('\\n').includes(select.value));
    pair.hidden = !fits;
    count += fits;
  });
  tools.querySelector('output').textContent =
    `${count} of ${pairs.length}`;
}
tools.hidden = false;
tools.addEventListener('input', show);
tools.addEventListener('submit', event => event.preventDefault());
show();
"""


def _noisy(
  pair: Pair, picture: np.ndarray, step: int, overflow: noise.Overflow
) -> tuple[np.ndarray, str]:
  """The stored noisy picture, or one made for the page, and its caption."""
  if (data := pair.noisy()) is not None:
    return np.asarray(open_image(data)), f"stored, step {pair.noise_step}"
  seed = noise.seed_for(0, pair.id, None)
  made = noise.distort(picture, step, seed, overflow)
  return made, f"noise, step {step}, {overflow}"


def _twins(pair: Pair, step: int, overflow: noise.Overflow) -> str:
  """Clean and noisy pictures side by side; what is wrong, where one is bad."""
  figures = []
  try:
    for data in pair.pictures():
      picture = np.asarray(open_image(data, "picture"))
      noisy, caption = _noisy(pair, picture, step, overflow)
      clean = html.thumbnail(picture, _SIDE)
      figures.append(html.image(clean, "picture", "clean"))
      figures.append(
        html.image(html.thumbnail(noisy, _SIDE, 40), "noisy twin", caption)
      )
  except UserError as error:
    figures.append(f'<p class="soft">{html.escape(error)}</p>')
  if not figures:
    return '<p class="soft">no picture</p>'
  return f'<div class="twins">{"".join(figures)}</div>'


def _answers(pair: Pair) -> str:
  rejected = [(text_of(r.turns), r.weight) for r in pair.every_rejected]
  return html.sides(text_of(pair.chosen), rejected, pair.context, pair.ends)


def _card(pair: Pair, step: int, overflow: noise.Overflow) -> str:
  kinds = sorted(set(pair.edits))
  tags = [pair.split, pair.category, pair.injector, *kinds]
  shown = "".join(
    f'<span class="tag">{html.escape(tag)}</span>' for tag in tags if tag
  )
  facts = {
    "split": pair.split,
    "category": pair.category,
    "edit": "\n".join(kinds),
  }
  data = " ".join(f'data-{k}="{html.escape(v)}"' for k, v in facts.items())
  prompt = text_of(pair.prompt).replace("<image>", "").strip()
  return (
    f'<article class="pair" {data}><header><h3>{html.escape(pair.id)}</h3>'
    f"{shown}</header>{_twins(pair, step, overflow)}"
    f'<div><p class="prompt">{html.escape(prompt)}</p>'
    f"{_answers(pair)}</div></article>"
  )


def _select(name: str, values: set[str]) -> str:
  if len(values - {""}) < 2:
    return ""
  options = "".join(
    f"<option>{html.escape(value)}</option>" for value in sorted(values - {""})
  )
  return (
    f'<select name="{name}" aria-label="{name}">'
    f'<option value="">any {name}</option>{options}</select>'
  )


def _tools(pairs: Sequence[Pair]) -> str:
  return (
    '<form class="tools" hidden><input type="search" '
    'placeholder="search ids, questions, answers" aria-label="search">'
    + _select("split", {p.split for p in pairs})
    + _select("category", {p.category for p in pairs})
    + _select("edit", {kind for p in pairs for kind in p.edits})
    + "<output></output></form>"
  )


def _strip(pairs: Sequence[Pair]) -> str:
  """One picture at several steps, with both ways to treat the overflow."""
  for pair in pairs:
    try:
      data = pair.pictures()
      picture = open_image(data[0], pair.id) if data else None
    except UserError:
      continue
    if picture is not None:
      break
  else:
    return ""
  picture.thumbnail((640, 640))
  pixels = np.asarray(picture)
  seed = noise.seed_for(0, pair.id, None)
  rows = []
  for overflow, meaning in OVERFLOWS.items():
    figures = [
      html.image(
        html.thumbnail(noise.distort(pixels, step, seed, overflow), 160, 50),
        f"step {step}, {overflow}",
        f"step {step}",
      )
      for step in STRIP_STEPS
    ]
    rows.append(
      f'<p class="soft">{overflow}: {meaning}</p>'
      f'<div class="strip">{"".join(figures)}</div>'
    )
  title = f"Noise, step by step: {html.escape(pair.id)}"
  return f"<h2>{title}</h2>{''.join(rows)}"


def _bars(histogram: Histogram) -> str:
  most = max(histogram.counts)
  rows = "".join(
    f"<span>{html.escape(label)}</span><span>{count:,}</span>"
    f'<i style="width:{100 * count / most:.1f}%"></i>'
    for label, count in zip(histogram.labels, histogram.counts, strict=True)
  )
  name = html.escape(histogram.name)
  return (
    f'<div><h3>{name} <span class="soft">mean {histogram.mean:.4g}</span></h3>'
    f'<div class="bars">{rows}</div></div>'
  )


def _counts(stats: Stats) -> str:
  tables = [
    f"<div><h3>{html.escape(name)}</h3>" + html.table([], rows) + "</div>"
    for name, rows in stats.tables.items()
  ]
  told = f"<p>{html.escape(stats.text_only)}</p>" if stats.text_only else ""
  return (
    f'<h2>Counts</h2><div class="counts">{"".join(tables)}</div>{told}'
    '<h2>Lengths and changes</h2><div class="counts">'
    f"{''.join(map(_bars, stats.histograms))}</div>"
  )


def render(
  name: str,
  stats: Stats,
  pairs: Sequence[Pair],
  step: int,
  overflow: noise.Overflow,
) -> str:
  """The whole page.

  Args:
    name: of what was read.
    stats: its counts.
    pairs: those to show.
    step: of the noise where no noisy picture is stored.
    overflow: of the same noise.
  """
  seen = f"{stats.seen:,} of {stats.total:,}"
  intro = (
    f"<h1>{html.escape(name)}</h1><p>{seen} records read, {len(pairs):,} shown."
    ' Words that differ: <mark class="good">only in the chosen</mark>, '
    '<mark class="bad">only in the rejected answer</mark>. Text in '
    '<span class="soft">grey</span> is the context, which is not scored; '
    '<mark class="all">every word</mark> of an answer with a weight is '
    "marked.</p>"
  )
  cards = "".join(
    _card(pair, step, overflow) for pair in bar(pairs, desc="page", unit="pair")
  )
  parts = [intro, _strip(pairs), "<h2>Pairs</h2>", _tools(pairs), cards]
  body = "".join([*parts, _counts(stats)])
  return html.page(name, body, STYLE, SCRIPT)
