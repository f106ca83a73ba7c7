"""Statistics of a set of pairs: lengths, edits, duplicates, skipped samples."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_gen import text_only
from povid_jax.data.records import Rejected
from povid_jax.files import json_objects
from povid_jax.report.html import split_words, word_spans

_DIFF_AT_MOST = 4000  # exact differences are quadratic in the words


@dataclass(frozen=True)
class Pair:
  """One sample to show; pictures are read when they are asked for."""

  id: str
  split: str
  picture_key: str  # equal for equal pictures, as far as is known
  prompt: tuple[str, ...]
  chosen: tuple[str, ...]
  rejected: tuple[str, ...]
  category: str = ""
  injector: str = ""
  edits: tuple[str, ...] = ()  # kinds
  noise_step: int = -1
  context: str = ""  # these four as in `Record`
  ends: bool = True
  weight: float = 1.0
  more: tuple[Rejected, ...] = ()
  pictures: Callable[[], list[bytes]] = field(default=list, compare=False)
  noisy: Callable[[], bytes | None] = field(default=lambda: None, compare=False)

  @property
  def every_rejected(self) -> tuple[Rejected, ...]:
    first = Rejected(self.rejected, self.weight)
    return (first, *self.more) if self.rejected else ()


@dataclass(frozen=True)
class Histogram:
  """Counts per bin; a bin holds its lower edge, not its upper one."""

  name: str
  labels: tuple[str, ...]
  counts: tuple[int, ...]
  mean: float


@dataclass(frozen=True)
class Stats:
  """What `measure` finds.

  Attributes:
    seen, total: records that were read, and that there are.
    text_only: a line about telling rejected answers by language alone, "" for
      too few pairs.
  """

  seen: int
  total: int
  tables: dict[str, list[tuple[str, int]]]
  histograms: list[Histogram]
  text_only: str = ""


def text_of(turns: Sequence[str]) -> str:
  return "\n\n".join(turns)


def _labels(edges: Sequence[float]) -> list[str]:
  """[0, 1, 2, 5, 10] -> 0, 1, 2-5, 5-10, 10+."""
  labels = []
  for low, high in zip(edges, edges[1:], strict=False):
    single = isinstance(low, int) and high - low == 1
    labels.append(f"{low}" if single else f"{low:g}-{high:g}")
  return [*labels, f"{edges[-1]:g}+"]


def histogram(
  name: str, values: Iterable[float], edges: Sequence[float]
) -> Histogram | None:
  """Counts per bin, without empty bins at either end; None of nothing."""
  values = list(values)
  if not values:
    return None
  counts = [0] * len(edges)
  for value in values:
    counts[sum(value >= edge for edge in edges[1:])] += 1
  used = [i for i, count in enumerate(counts) if count]
  cut = slice(used[0], used[-1] + 1)
  mean = sum(values) / len(values)
  return Histogram(name, tuple(_labels(edges)[cut]), tuple(counts[cut]), mean)


def substitutions(before: str, after: str) -> list[tuple[str, str]]:
  """The runs of words that differ: ("red", "blue"), ("", "and a dog")."""
  left, right = word_spans(before, after)
  pairs: list[tuple[str, str]] = []
  i = j = 0
  while i < len(left) or j < len(right):
    old = new = ""
    if i < len(left) and left[i][1]:
      old, i = left[i][0].strip(), i + 1
    if j < len(right) and right[j][1]:
      new, j = right[j][0].strip(), j + 1
    if old or new:
      pairs.append((old, new))
    elif i < len(left) and not left[i][1]:
      i, j = i + 1, j + 1
  return pairs


def changed_share(before: str, after: str) -> float:
  """Share of the words of `after` that are not in `before`, 0 to 1."""
  _, spans = word_spans(before, after)
  sizes = [(len(split_words(text)), new) for text, new in spans]
  total = sum(size for size, _ in sizes)
  return sum(size for size, new in sizes if new) / max(total, 1)


def _digest(*parts: str) -> bytes:
  joined = "\0".join(parts).encode("utf-8", "surrogatepass")
  return hashlib.blake2b(joined, digest_size=16).digest()


def _repeats(keys: Iterable[object]) -> int:
  """How many keys are there that have been there before."""
  return sum(count - 1 for count in Counter(keys).values())


def duplicates(pairs: Sequence[Pair]) -> list[tuple[str, int]]:
  content = [
    (p.picture_key, _digest(*p.prompt, p.context), _digest(*p.chosen))
    for p in pairs
  ]
  whole = [
    (*key, _digest(*p.rejected)) for key, p in zip(content, pairs, strict=True)
  ]
  same = [
    p.rejected and text_of(p.chosen) == text_of(p.rejected) for p in pairs
  ]
  return [
    ("id seen before", _repeats(p.id for p in pairs)),
    ("picture, question and chosen answer seen before", _repeats(content)),
    ("whole sample seen before", _repeats(whole)),
    ("rejected answer equal to the chosen one", sum(map(bool, same))),
  ]


def left_out(*files: Path) -> list[tuple[str, int]]:
  """Reasons in rejected.jsonl and skipped.jsonl, the most frequent first."""
  reasons: Counter = Counter()
  for path in files:
    if not path.is_file():
      continue
    for row in json_objects(path, torn=True):
      reason = row.get("reason")
      # The reason of a skipped sample goes on with a name after its colon.
      reasons[f"{path.name}: {str(reason).split(': ')[-1][:70]}"] += 1
  return reasons.most_common(12)


def _spread(pairs: Sequence[Pair], limit: int) -> list[Pair]:
  step = max(1, -(-len(pairs) // limit))
  return list(pairs[::step])


def _difference_tables(
  pairs: Sequence[Pair],
) -> tuple[dict[str, list[tuple[str, int]]], list[Histogram | None]]:
  both = [p for p in pairs if p.rejected]
  few = _spread(both, _DIFF_AT_MOST)
  swaps: Counter = Counter()
  spans, shares = [], []
  for pair in few:
    before, after = text_of(pair.chosen), text_of(pair.rejected)
    found = substitutions(before, after)
    swaps.update(found)
    spans.append(len(found))
    shares.append(100 * changed_share(before, after))
  note = f" (of {len(few):,} pairs)" if len(few) < len(both) else ""
  common = [
    (f"{old or '(nothing)'} -> {new or '(nothing)'}"[:72], count)
    for (old, new), count in swaps.most_common(15)
  ]
  histograms = [
    histogram("changed places per pair" + note, spans, range(0, 12)),
    histogram("changed words, %" + note, shares, range(0, 100, 5)),
  ]
  return {"most frequent changes" + note: common}, histograms


def _lengths(pairs: Sequence[Pair]) -> list[Histogram | None]:
  words = lambda turns: len(text_of(turns).split())
  edges = [0, 5, 10, 20, 30, 40, 60, 80, 100, 130, 160, 200, 300, 500, 1000]
  ratio_edges = [0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.2, 1.3, 1.5, 2, 3]
  both = [p for p in pairs if p.rejected]
  ratios = [words(p.rejected) / max(words(p.chosen), 1) for p in both]
  return [
    histogram("chosen, words", [words(p.chosen) for p in pairs], edges),
    histogram("rejected, words", [words(p.rejected) for p in both], edges),
    histogram("rejected / chosen length", ratios, ratio_edges),
  ]


def measure(
  pairs: Sequence[Pair], total: int, filtered: list[tuple[str, int]]
) -> Stats:
  """All counts.

  Args:
    pairs: what was read.
    total: how many there are.
    filtered: from `left_out`.
  """
  count = lambda values: Counter(values).most_common()
  counts = [
    ("pairs", sum(bool(p.rejected) for p in pairs)),
    ("without a rejected answer", sum(not p.rejected for p in pairs)),
    ("several turns", sum(len(p.prompt) + len(p.chosen) > 2 for p in pairs)),
    ("without a picture", sum(not p.picture_key for p in pairs)),
    ("after a context", sum(bool(p.context) for p in pairs)),
    ("several rejected answers", sum(bool(p.more) for p in pairs)),
    (
      "with weights",
      sum(any(r.weight != 1 for r in p.every_rejected) for p in pairs),
    ),
    ("different pictures", len({p.picture_key for p in pairs} - {""})),
    ("stored noisy pictures", sum(p.noise_step >= 0 for p in pairs)),
  ]
  tables = {
    "records": counts,
    "splits": count(p.split for p in pairs if p.split),
    "categories": count(p.category or "(none)" for p in pairs),
    "injectors": count(p.injector or "(none)" for p in pairs),
    "kinds of edits": count(kind for p in pairs for kind in p.edits),
    "duplicates": duplicates(pairs),
  }
  if filtered:
    lost = sum(n for _, n in filtered)
    share = f"left out ({lost / (lost + total):.1%} of all)"
    tables[share] = filtered
  differences, histograms = _difference_tables(pairs)
  shown = [h for h in _lengths(pairs) + histograms if h is not None]
  tables = {k: v for k, v in (tables | differences).items() if v}
  return Stats(len(pairs), total, tables, shown, _text_only(pairs))


def _text_only(pairs: Sequence[Pair]) -> str:
  found = text_only.accuracy(
    [
      (p.picture_key or p.id, text_of(p.chosen), text_of(p.rejected))
      for p in pairs
      if p.rejected
    ]
  )
  if found is None:
    return ""
  mean, error = found
  verdict = "the pairs also teach style" if mean > 0.65 else "little style"
  return (
    f"by words alone: {mean:.1%} +- {error:.1%} of answers are classified "
    f"correctly without the picture (50% is chance; {verdict})"
  )
