"""Two runs side by side: paired intervals, tests, the items that changed."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.eval import benchmarks as registry
from povid_jax.eval import bootstrap, needs, results
from povid_jax.eval.bootstrap import Difference
from povid_jax.eval.protocol import Options
from povid_jax.progress import digits

ALPHA = 0.05


@dataclass(frozen=True)
class Changed:
  """Items that only one of two runs has right, and McNemar's p for that."""

  only_a: tuple[str, ...]
  only_b: tuple[str, ...]
  both: int
  neither: int

  @property
  def p(self) -> float:
    return bootstrap.mcnemar(len(self.only_a), len(self.only_b))


@dataclass(frozen=True)
class Comparison:
  """One benchmark of two runs, on the items that both have."""

  benchmark: str
  metrics: Mapping[str, Difference]
  changed: Changed
  units: int


def compare(a: Path, b: Path, resamples: int = 10_000) -> list[Comparison]:
  """Compares two --out folders, benchmark by benchmark.

  Metrics are compared by a paired bootstrap over the units that both runs have;
  items that are right or wrong by McNemar's exact test as well.

  Raises:
    UserError: a folder is not a finished evaluation, or they share no
      benchmark.
  """
  settings = [results.read(folder)["settings"] for folder in (a, b)]
  counts = [_counts(folder) for folder in (a, b)]
  verdicts = [_verdicts(folder) for folder in (a, b)]
  names = [name for name in counts[0] if name in counts[1]]
  if not names:
    raise UserError(
      f"{a} and {b} have no benchmark in common; score both on the same one"
    )
  _same_rules(settings, names, a, b)
  found = []
  for name in names:
    options = _options(settings[1].get("options", {}))
    first, second = (run[name] for run in counts)
    found.append(
      Comparison(
        name,
        bootstrap.paired(registry.get(name), first, second, options, resamples),
        changed(verdicts[0].get(name, {}), verdicts[1].get(name, {})),
        len(set(first) & set(second)),
      )
    )
  return found


def changed(
  a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]]
) -> Changed:
  """Splits the items of both runs by which run is right."""
  groups: dict[tuple[bool, bool], list[str]] = defaultdict(list)
  for item in a:
    if item in b and "correct" in a[item] and "correct" in b[item]:
      right = bool(a[item]["correct"]), bool(b[item]["correct"])
      groups[right].append(item)
  return Changed(
    only_a=tuple(groups[True, False]),
    only_b=tuple(groups[False, True]),
    both=len(groups[True, True]),
    neither=len(groups[False, False]),
  )


def _options(held: Mapping[str, Any]) -> Options:
  return Options(
    clean_rules=bool(held.get("clean_rules", False)),
    seed=int(held.get("seed", 0)),
  )


def _same_rules(
  settings: Sequence[Mapping[str, Any]], names: Sequence[str], a: Path, b: Path
) -> None:
  """Runs scored by other rules or on other data cannot be compared."""
  rules = [held.get("options", {}) for held in settings]
  for name in sorted((set(rules[0]) | set(rules[1])) - {"seed"}):
    values = [held.get(name) for held in rules]
    if values[0] != values[1]:
      raise UserError(
        f"{a} and {b} were scored with different --{name.replace('_', '-')}: "
        f"{values[0]} and {values[1]}"
      )
  made = [held.get("measured_by", {}) for held in settings]
  for name in names:
    ours, theirs = (run.get(name, {}) for run in made)
    for key in ours:
      if ours[key] != theirs.get(key):
        raise UserError(
          f"{name}: {a} and {b} differ in {key}: {ours[key]} and "
          f"{theirs.get(key)}; numbers made in different ways cannot be "
          "compared"
        )
  hashes = [held.get("data_hash", {}) for held in settings]
  for name in names:
    if hashes[0].get(name) != hashes[1].get(name):
      raise UserError(
        f"{name}: {a} and {b} were scored on different files; score both again "
        "on the same --data (--answers=RUN/answers.jsonl)"
      )


def _counts(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
  found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
  for row in needs.read_jsonl(folder / "counts.jsonl"):
    found[row["benchmark"]][row["unit"]] = row["counts"]
  return found


def _verdicts(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
  found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
  for row in needs.read_jsonl(folder / "verdicts.jsonl"):
    found[row["benchmark"]][str(row["question_id"])] = row
  return found


def words(p: float, difference: float = 0.0) -> str:
  """A test in words: "p=0.003, B higher, significant"."""
  number = f"p={p:.4f}" if p >= 0.0001 else "p<0.0001"
  side = {True: "B higher, ", False: "B lower, "}[difference > 0]
  if difference == 0:
    side = ""
  return f"{number}, {side}{'' if p < ALPHA else 'not '}significant"


def report(
  comparisons: Sequence[Comparison], a: str, b: str, show: int = 10
) -> str:
  """What `compare` prints."""
  lines = [f"A: {a}", f"B: {b}", "B - A, paired bootstrap over images"]
  for one in comparisons:
    lines += ["", f"{one.benchmark} ({one.units} units in both)"]
    width = max((len(name) for name in one.metrics), default=0)
    lines += [
      f"  {name:<{width}}  {digits(gap.a):>8} -> {digits(gap.b):>8}  "
      f"{digits(gap.value, sign='+'):>8} [{digits(gap.low, sign='+')}, "
      f"{digits(gap.high, sign='+')}]  {words(gap.p, gap.value)}"
      for name, gap in one.metrics.items()
    ]
    lines += _items(one.changed, show)
  return "\n".join(lines)


def _items(found: Changed, show: int) -> list[str]:
  total = len(found.only_a) + len(found.only_b) + found.both + found.neither
  if not total:
    return []
  lines = [
    f"  of {total} items: right in both {found.both}, in neither "
    f"{found.neither}, only in A {len(found.only_a)}, only in B "
    f"{len(found.only_b)}; McNemar "
    f"{words(found.p, len(found.only_b) - len(found.only_a))}"
  ]
  for label, items in (("A", found.only_a), ("B", found.only_b)):
    if items and show:
      more = ", ..." if len(items) > show else ""
      lines.append(f"  only in {label}: {', '.join(items[:show])}{more}")
  return lines


def as_json(comparisons: Sequence[Comparison]) -> str:
  """The comparison for programs: one object per benchmark."""
  return json.dumps(
    [
      {
        "benchmark": one.benchmark,
        "units": one.units,
        "metrics": {
          name: {
            "a": gap.a,
            "b": gap.b,
            "difference": gap.value,
            "ci95": [gap.low, gap.high],
            "p": gap.p,
            "significant": gap.p < ALPHA,
          }
          for name, gap in one.metrics.items()
        },
        "mcnemar": {
          "only_a": list(one.changed.only_a),
          "only_b": list(one.changed.only_b),
          "both": one.changed.both,
          "neither": one.changed.neither,
          "p": one.changed.p,
        },
      }
      for one in comparisons
    ],
    indent=1,
  )
