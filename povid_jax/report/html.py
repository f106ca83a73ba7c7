"""Small pieces of self-contained HTML: text, pictures, marked differences."""

import base64
import difflib
import html
import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

# One look for every page of the project; the reader's system chooses between
# light and dark. Marks differ by line style too, not by colour alone.
STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #1d2126;
  --soft: #5f6b76; --line: #d9dee3; --card: #ffffff; --accent: #0b63b5;
  --bad: #a3162b; --bad-paper: #fde4e6; --good: #12663b;
  --good-paper: #dcf3e4; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a;
  --ink: #e7eaed; --soft: #9aa6b1; --line: #30373e; --card: #1c2126;
  --accent: #7db8f5; --bad: #ffb3bb; --bad-paper: #50202a;
  --good: #a6e5bf; --good-paper: #17402a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem clamp(.75rem, 3vw, 2rem) 4rem;
  max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .75rem; }
a { color: var(--accent); }
.soft { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left;
  border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; }
img { max-width: 100%; height: auto; border-radius: 4px; display: block; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .85rem; }
mark { border-radius: 3px; padding: 0 .15em; }
mark.good { background: var(--good-paper); color: var(--good);
  text-decoration: underline; text-underline-offset: .2em; }
mark.bad { background: var(--bad-paper); color: var(--bad);
  text-decoration: underline wavy; text-underline-offset: .2em; }
mark.all { background: none; color: inherit; padding: 0;
  text-decoration: underline dotted; text-underline-offset: .5em; }
.sides { display: grid; gap: .7rem 1.4rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); }
.sides h4 { margin: 0 0 .15rem; font-size: .8rem; color: var(--soft);
  font-weight: 600; }
.sides p { margin: 0; white-space: pre-line; }
pre, code { font: .875em/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid var(--line);
  border-radius: 6px; background: var(--card); }
"""

# A word or a mark with the blanks behind it; or the blanks at the beginning.
_WORDS = re.compile(r"(?:\w+(?:['’-]\w+)*|[^\w\s])\s*|^\s+")


def escape(text: object) -> str:
  """Text made safe for an element's content or a quoted attribute."""
  return html.escape(str(text), quote=True)


def page(title: str, body: str, style: str = "", script: str = "") -> str:
  """A whole document around `body` (trusted HTML); needs no other file."""
  tail = f"<script>{script}</script>" if script else ""
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style></head>\n"
    f"<body>\n{body}\n{tail}</body></html>\n"
  )


def thumbnail(
  picture: Image.Image | np.ndarray, side: int = 320, quality: int = 82
) -> str:
  """A picture as a data: URI, its longer side at most `side` pixels.

  Args:
    picture: a Pillow image, or uint8[H, W, 3].
  """
  if isinstance(picture, np.ndarray):
    picture = Image.fromarray(picture)
  picture = picture.convert("RGB")
  picture.thumbnail((side, side))
  out = io.BytesIO()
  picture.save(out, "WEBP", quality=quality, method=4)
  return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def image(source: str, alt: str, caption: str = "") -> str:
  """A figure with a picture; `source` is a data: URI."""
  text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
  return (
    f'<figure><img loading="lazy" src="{escape(source)}" '
    f'alt="{escape(alt)}">{text}</figure>'
  )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
  """A table; columns of numbers are set to the right; header may be empty."""

  def is_number(value: object) -> bool:
    return isinstance(value, (int, float))

  def cells(tag: str, values: Sequence[object], right: Sequence[bool]) -> str:
    return "".join(
      f'<{tag} class="number">{escape(value)}</{tag}>'
      if number
      else f"<{tag}>{escape(value)}</{tag}>"
      for value, number in zip(values, right, strict=True)
    )

  columns = [all(map(is_number, column)) for column in zip(*rows, strict=True)]
  head = cells("th", header, (columns or [False] * len(header))[: len(header)])
  body = "".join(
    f"<tr>{cells('td', row, list(map(is_number, row)))}</tr>" for row in rows
  )
  head = f"<thead><tr>{head}</tr></thead>" if header else ""
  return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def split_words(text: str) -> list[str]:
  """Words and marks with the blanks behind them; joined they give `text`.

  "a cat's tail." -> ["a ", "cat's ", "tail", "."]
  """
  return _WORDS.findall(text)


Spans = list[tuple[str, bool]]


def word_spans(before: str, after: str) -> tuple[Spans, Spans]:
  """Both texts as runs (text, changed); unchanged runs come in pairs.

  "a red bus", "a blue bus" ->
    [("a ", False), ("red ", True), ("bus", False)],
    [("a ", False), ("blue ", True), ("bus", False)]

  Words are compared without the blanks behind them.
  """
  words = split_words(before), split_words(after)
  keys = [[word.rstrip() for word in side] for side in words]
  # The exact matcher is quadratic; a text of a book's length gets the quick
  # one, which may mark too much but never too little.
  long = max(map(len, words)) > 4000
  matcher = difflib.SequenceMatcher(None, *keys, autojunk=long)
  left: Spans = []
  right: Spans = []
  for tag, i, j, k, m in matcher.get_opcodes():
    changed = tag != "equal"
    if j > i:
      left.append(("".join(words[0][i:j]), changed))
    if m > k:
      right.append(("".join(words[1][k:m]), changed))
  return left, right


def word_diff(before: str, after: str) -> tuple[str, str]:
  """Two texts as HTML, words of the first marked good, of the second bad."""

  def render(spans: Spans, kind: str) -> str:
    out = []
    for text, changed in spans:
      words = text.rstrip()
      mark = f'<mark class="{kind}">{escape(words)}</mark>'
      blank = text[len(words) :]
      out.append(mark + blank if changed else escape(text))
    return "".join(out)

  left, right = word_spans(before, after)
  return render(left, "good"), render(right, "bad")


def sides(
  chosen: str,
  rejected: Sequence[tuple[str, float]],
  context: str = "",
  ends: bool = True,
) -> str:
  """A chosen and its rejected answers side by side, differences marked.

  Args:
    chosen: marked where the first rejected answer differs from it.
    rejected: each with the weight of its tokens; all words of one that does
      not weigh 1 are marked too.
    context: what was said before all of them; grey, for it is not scored.
    ends: whether the end of the answers is scored.
  """
  before = f'<span class="soft">{escape(context)}</span> ' if context else ""
  after = "" if ends else ' <span class="soft">(goes on)</span>'

  def side(title: str, said: str) -> str:
    return f"<div><h4>{title}</h4><p>{before}{said}{after}</p></div>"

  if not rejected:
    return f'<div class="sides">{side("answer", escape(chosen))}</div>'
  out = []
  for number, (said, weight) in enumerate(rejected, 1):
    left, right = word_diff(chosen, said)
    if number == 1:
      out.append(side("chosen", left))
    title = "rejected" if number == 1 else f"rejected, {number}"
    if weight != 1:
      title += f": every token weighs {weight:g}"
      right = f'<mark class="all">{right}</mark>'
    out.append(side(title, right))
  return f'<div class="sides">{"".join(out)}</div>'
