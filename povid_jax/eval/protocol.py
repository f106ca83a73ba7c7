"""The interface of a benchmark: questions, judged answers, (name, value) pairs.

A benchmark is one file that ends in `BENCHMARK = Benchmark(...)`, made of three
functions without shared state:

  questions(data, options) -> [Question]     reads DATA/<name>/, official files
  score(data, questions, answers, options)   judges answers[i] to questions[i]
    -> Scored                                (None: there is no answer)
  metrics(totals, options) -> (name, value)  totals of the counts of `Scored`

`score` never divides. It leaves, for every unit of resampling (as a rule the
image), counts that can be summed; `metrics` turns sums into rates. A metric is
`metrics(sum over units)`, and a bootstrap replicate of it is the same call
on the sum over resampled units. `totals` holds float64[R] arrays, one entry per
replicate: write `metrics` with numpy operators and `ratio`.

The number of items behind metric "a/b" is found in the totals as "a/b/n", else
"a/n", else "n": count them in `score`.

A benchmark that looks into the model (attention, preference) gives `measure`
instead of `questions` and `score`.
"""

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from povid_jax.data.questions import Question

Totals = Mapping[str, np.ndarray]  # name -> float64[R]
Metrics = Iterator[tuple[str, np.ndarray]]  # (name, float64[R])


@dataclass(frozen=True)
class Need:
  """A file under DATA/<benchmark>/: a glob pattern and where it comes from."""

  pattern: str
  source: str
  optional: bool = False


@dataclass(frozen=True)
class Column:
  """A column of results.md: a metric, its heading, the factor shown."""

  metric: str
  heading: str
  scale: float = 100.0


@dataclass(frozen=True)
class Flags:
  """Flags that a benchmark brings to the command line; several may share them.

  Attributes:
    title: of the group in --help.
    add: adds the flags to the group.
    read: (parsed flags) -> settings for `Options.extra`; raises UserError for
      an invalid value.
    rules: (Options.extra) -> the settings that change a score, as results.json
      keeps them; runs that differ in one are not compared.
  """

  title: str
  add: Callable[[Any], None]
  read: Callable[[argparse.Namespace], Mapping[str, Any]]
  rules: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda extra: {}


@dataclass(frozen=True)
class Options:
  """Choices of the user that change questions or scores.

  Attributes:
    clean_rules: judge by the clean rule where the original has a quirk.
    prompt: replaces the benchmark's own question or instruction.
    limit: use only this many questions (whole images where it matters).
    seed: of every random choice (subset of images, bootstrap).
    images: folder of the pictures; None looks in the benchmark's folder.
    split: which part of a benchmark that has several.
    out: the run's folder, for what must survive an interruption.
    extra: settings by benchmarks' own flags (see `Flags`), the decoding, and
      the judge.
  """

  clean_rules: bool = False
  prompt: str | None = None
  limit: int | None = None
  seed: int = 0
  images: Path | None = None
  split: str | None = None
  out: Path | None = None
  extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Scored:
  """What scoring leaves: counts per unit and one verdict per question.

  Attributes:
    units: unit of resampling -> counts.
    verdicts: one row per question, with at least `question_id`, `unit` and, if
      the answer can be right or wrong, `correct`.
    notes: what a reader of the numbers must know (printed once in results.md).
    settings: what the numbers depend on beyond the options (a judge); runs
      that differ in it are not compared.
    answers, prompt, data_hash: of a benchmark with `measure`, which asks for
      itself: rows of answers.jsonl, the first question, a hash of its files.
  """

  units: dict[str, dict[str, float]] = field(default_factory=dict)
  verdicts: list[dict[str, Any]] = field(default_factory=list)
  notes: list[str] = field(default_factory=list)
  settings: dict[str, Any] = field(default_factory=dict)
  answers: list[dict[str, Any]] = field(default_factory=list)
  prompt: str | None = None
  data_hash: str | None = None

  def count(self, unit: Any, counts: Mapping[str, float]) -> None:
    """Adds counts to a unit."""
    held = self.units.setdefault(str(unit), {})
    for name, value in counts.items():
      held[name] = held.get(name, 0.0) + float(value)


def row_id(row: Mapping[str, Any]) -> Any:
  """The id of an answer row under whichever name its format uses; or None."""
  for name in ("question_id", "id", "image_id", "index"):
    if row.get(name) is not None:
      return row[name]
  return None


def note_unread(scored: Scored, unread: int, total: int, meaning: str) -> None:
  """Adds a note about the answers of a yes/no benchmark that are neither.

  Args:
    scored: gets the note.
    unread: how many; nothing is noted of none.
    total: answers to yes/no questions.
    meaning: how they count.
  """
  if unread:
    scored.notes.append(
      f"{unread} of {total} answers are neither yes nor no: {meaning}"
    )


Answers = Sequence[str | None]  # one per question; None: there is none


@dataclass(frozen=True)
class Benchmark:
  """One benchmark; see the module's text for the three functions.

  Attributes:
    name: on the command line, and its folder below DATA.
    title: in tables.
    needs: files it reads, with their official source.
    columns: the paper's columns for results.md.
    max_new_tokens: default length of an answer.
    row_id: from an answer row to a question's id; None: no id in the row.
    missing: what an unanswered question means unless the user says: "error",
      "skip" (it is left out) or "empty" (scored as None).
    read: own reader of an answer path of its own format; None: not that format.
    prepare: leaves the pictures that questions name, just before asking.
    write: leaves an official submission file in the run's folder.
    measure: (policy, data, options) -> Scored, instead of asking.
    keep_adapter: it wants the adapter apart, to switch it off.
    judged: answers are judged by a language model.
    flags: its own flags.
  """

  name: str
  title: str
  needs: tuple[Need, ...]
  metrics: Callable[[Totals, Options], Metrics]
  columns: tuple[Column, ...] = ()
  questions: Callable[[Path, Options], list[Question]] | None = None
  score: (
    Callable[[Path, Sequence[Question], Answers, Options], Scored] | None
  ) = None
  max_new_tokens: int = 1024
  row_id: Callable[[Mapping[str, Any]], Any] = row_id
  missing: str = "error"
  read: Callable[[Path], list[dict[str, Any]] | None] | None = None
  prepare: Callable[[Path, Sequence[Question], Options], None] | None = None
  write: Callable[[Path, Path, Sequence[Question], Answers], None] | None = None
  measure: Callable[[Any, Path, Options], Scored] | None = None
  keep_adapter: bool = False
  judged: bool = False
  flags: Flags | None = None

  def meanings(self) -> str:
    """What its metrics are, as Markdown: the list in the head of its module."""
    module = sys.modules.get(f"povid_jax.eval.benchmarks.{self.name}")
    found = re.search(r"(?:^  .*\n)+", getattr(module, "__doc__", ""), re.M)
    return textwrap.indent(found[0].rstrip(), "  ") if found else ""

  def metric_words(self) -> set[str]:
    """Words of the names in that list, those of placeholders (<split>) too."""
    names = re.findall(r"^    (\S.*?)(?:  |$)", self.meanings(), re.M)
    return set(re.findall(r"[\w-]+", " ".join(names)))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  """part / whole, and 0 where there is nothing to divide by.

  A rate of an empty set is 0 here: precision without a predicted yes, CHAIRi
  without an object. The originals stop with ZeroDivisionError.
  """
  part, whole = np.asarray(part, float), np.asarray(whole, float)
  return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)


def f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
  """Harmonic mean of the two; 0 where both are 0."""
  return ratio(2 * precision * recall, precision + recall)


def total(units: Mapping[str, Mapping[str, float]]) -> dict[str, np.ndarray]:
  """Sums the counts over all units: name -> float64[1]."""
  sums: dict[str, float] = {}
  for counts in units.values():
    for name, value in counts.items():
      sums[name] = sums.get(name, 0.0) + value
  return {name: np.array([value]) for name, value in sums.items()}


def items(totals: Totals, metric: str) -> int:
  """How many items stand behind a metric (see the module's text)."""
  for name in (f"{metric}/n", f"{metric.rpartition('/')[0]}/n", "n"):
    if name in totals:
      return int(totals[name].flat[0])
  return 0
