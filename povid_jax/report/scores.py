"""What the scores mean: names, order, differences, the headline."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from povid_jax.errors import UserError
from povid_jax.eval import compare
from povid_jax.eval.bootstrap import Difference
from povid_jax.report import charts
from povid_jax.report.load import SPLITS, Evaluation, Run

RESAMPLES = 2000  # of the paired bootstrap; a page need not wait for more


@dataclasses.dataclass(frozen=True)
class Metric:
  """How a score is called, shown and judged."""

  key: str
  name: str
  meaning: str
  lower_is_better: bool | None
  form: Callable[..., str] = charts.percent

  @property
  def better(self) -> str:
    if self.lower_is_better is None:
      return ""
    return "lower is better" if self.lower_is_better else "higher is better"


METRICS = (
  Metric("chair/CHAIRs", "CHAIRs", "captions with an invented object", True),
  Metric("chair/CHAIRi", "CHAIRi", "invented objects among all named", True),
  Metric("chair/recall", "recall", "objects of the picture that are named",
         False),
  Metric("pope/f1", "POPE F1", "yes/no questions about objects", False),
  Metric("chair/length", "length", "words per caption", None, charts.number),
)  # fmt: skip

CONTROL = "sft_continued"
NAMES = {
  "sft": ("Base", "supervised only"),
  "base": ("Base", "before preference tuning"),
  "stage1": ("Stage 1", "injected negatives"),
  "stage2": ("Stage 2 (POVID)", "injected and noise-triggered"),
  "pretrain": ("Pre-training", "the stand-in for CLIP"),
  "own_answers": ("Own answers", "pairs of the base's own answers"),
  "own_context": ("Own, by sentence", "sentences after the same beginning"),
  "injected_only": ("Injected only", "stage 2 without noise negatives"),
  "noise_only": ("Noise only", "stage 2 without injected negatives"),
  "half_injected": ("Half injected", "injected only, at half weight"),
  "sft_continued": ("SFT continued", "control: chosen answers, same steps"),
}
SPLIT_NAMES = {
  "balanced": "Balanced pictures",
  "in_distribution": "Pictures like the training set",
}
LOOKS = {
  "sft": "c",
  "base": "c",
  "stage1": "a",
  "stage2": "b",
  "own_answers": "b",
}


def stage_name(stage: str) -> str:
  """What a reader calls a stage."""
  if stage in NAMES:
    return NAMES[stage][0]
  words = stage.replace("_", " ").replace("/", ", ")
  return words[:1].upper() + words[1:]


def split_name(split: str) -> str:
  return SPLIT_NAMES.get(split, split.replace("_", " ") or "all pictures")


def splits(run: Run) -> list[str]:
  """Splits with the headline's first."""
  headline = run.summary.get("headline", SPLITS[0])
  found = dict.fromkeys(e.split for e in run.evaluations)
  return sorted(found, key=lambda split: (split != headline, split))


def of_split(run: Run, split: str) -> list[Evaluation]:
  return [e for e in run.evaluations if e.split == split]


def ends(found: Sequence[Evaluation]) -> tuple[Evaluation, Evaluation] | None:
  """The base and the last stage of the method; None with fewer than two."""
  main = [e for e in found if e.stage in LOOKS]
  main = main if len(main) > 1 else list(found)
  return (main[0], main[-1]) if len(main) > 1 else None


def differences(base: Evaluation, other: Evaluation) -> dict[str, Difference]:
  """other - base of every metric, paired by picture; {} without counts."""
  if base is other or base.folder is None or other.folder is None:
    return {}
  return _paired(base.folder, other.folder)


@functools.cache
def _paired(a: Path, b: Path) -> dict[str, Difference]:
  if not ((a / "counts.jsonl").exists() and (b / "counts.jsonl").exists()):
    return {}
  try:
    found = compare.compare(a, b, RESAMPLES)
  except UserError:  # other rules or data: such runs have no difference
    return {}
  return {
    f"{one.benchmark}/{name}": gap
    for one in found
    for name, gap in one.metrics.items()
  }


def verdict(metric: Metric, gap: Difference) -> str:
  """CSS class of a difference: better, worse, or none if it may be chance."""
  if metric.lower_is_better is None or gap.low <= 0 <= gap.high:
    return ""
  return "better" if (gap.value < 0) == metric.lower_is_better else "worse"


def points(gap: Difference, metric: Metric) -> str:
  """A difference with its interval: "−12.3 [−14.0, −10.1]", in points."""
  scale = 100 if metric.form is charts.percent else 1
  # adding 0 turns -0.0 into 0.0
  show = lambda v: f"{round(scale * v, 1) + 0:+.1f}".replace("-", "−")
  return f"{show(gap.value)} [{show(gap.low)}, {show(gap.high)}]"


def headline(run: Run) -> str:
  """The title's sentence; a change that may be chance is not claimed."""
  metric = METRICS[0]
  for split in splits(run):
    pair = ends(of_split(run, split))
    if pair is None:
      continue
    before, after = (e.scores.get(metric.key) for e in pair)
    if before is None or after is None:
      continue
    gap = differences(*pair).get(metric.key)
    unsure = gap is not None and not verdict(metric, gap)
    if unsure or not before.value or before.value == after.value:
      says = "No sure change in"
    else:
      change = after.value / before.value - 1
      says = f"{abs(change):.0%} {'fewer' if change < 0 else 'more'}"
    return (
      f"{says} {metric.meaning}: {metric.form(before.value)} → "
      f"{metric.form(after.value)}"
    )
  return f"Training report: {run.title}"
