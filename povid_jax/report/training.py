"""Training curves: loss, margins, accuracies, drift, and whatever else."""

from collections.abc import Callable, Sequence
from typing import Any

from povid_jax.report import charts, scores
from povid_jax.report.charts import Series
from povid_jax.report.html import escape
from povid_jax.report.load import ORDER, Run, Stage

_BETA = "nats × β"

# title, y label, {metric: (name, look)}, options of line_chart
_CHARTS: tuple[tuple[str, str, dict[str, tuple[str, str]], dict], ...] = (
  ("Loss", "loss", {"loss": ("loss", "a"), "val/loss": ("validation", "b")},
   {}),
  ("Reward margins", _BETA,
   {"margin/rejected": ("rejected", "a"), "margin/noise": ("noise", "b"),
    "margin/corrupted": ("distorted image", "c")},
   {"zero": True, "note": (
     "reward (β times log p of policy minus reference) of the chosen minus "
     "that of the rejected answer; it rises from 0"
   )}),
  ("Accuracies", "share of pairs",
   {"accuracy/rejected": ("rejected", "a"), "accuracy/noise": ("noise", "b"),
    "accuracy/corrupted": ("distorted image", "c")},
   {"form": charts.percent, "y_range": (0.0, 1.0),
    "note": "pairs whose margin is positive; 0 at step 0, where the models "
    "are equal, then above half"}),
  ("Chosen drift", "nats per answer",
   {"drift/chosen": ("drift", "a")},
   {"zero": True, "note": (
     "log p, policy minus reference; if it falls, the policy forgets the "
     "chosen answer"
   )}),
)  # fmt: skip
# drawn above, or nothing to see in a line over steps
_SHOWN = {name for _, _, lines, _ in _CHARTS for name in lines}
_SHOWN |= {"epoch", "finite"}
_UNITS = {
  "lr": "learning rate",
  "grad_norm": "gradient norm",
  "pairs_per_s": "pairs per second",
  "tokens_per_s": "tokens per second",
  "seconds": "seconds per step",
  "padding": "share of all tokens",
  "input_wait_seconds": "seconds per step",
  "input_wait_share": "share of the time of a step",
}


def section(run: Run) -> str:
  """One row of charts per stage; all other metrics folded below."""
  stages = [stage for stage in run.stages if len(stage.rows) > 1]
  if not stages:
    return ""
  parts = [
    '<section id="training"><h2>Training</h2><p class="lead">Means over each '
    "batch; the strong line is a moving mean over a twentieth of the run, the "
    "number its last value.</p>"
  ]
  main = [stage for stage in stages if stage.name in ORDER] or stages
  parts += [
    f"<h3>{escape(scores.stage_name(stage.name))} "
    f'<small class="soft">{_facts(stage)}</small></h3>{_charts(stage)}'
    for stage in main
  ]
  parts += [
    f"<details><summary>{escape(scores.stage_name(stage.name))}"
    f"<small>{_facts(stage)}</small></summary>{_charts(stage)}</details>"
    for stage in stages
    if stage not in main
  ]
  return "".join([*parts, "</section>"])


def _charts(stage: Stage) -> str:
  figures = [
    charts.line_chart(title, _series(stage.rows, lines), label, **options)
    for title, label, lines, options in _CHARTS
  ]
  figures += _scored(stage)
  return f'<div class="charts">{"".join(figures)}</div>{_rest(stage)}'


def _scored(stage: Stage) -> list[str]:
  """Scores of evaluations during training, over steps."""
  steps = list(stage.scored)
  figures = []
  for metric in scores.METRICS:
    found = [stage.scored[step].get(metric.key) for step in steps]
    values = [None if score is None else score.value for score in found]
    figures.append(
      charts.line_chart(
        metric.name,
        [Series(metric.name, steps, values, "b")],
        "score" if metric.form is charts.percent else "words",
        form=metric.form,
        note=f"{metric.meaning}, evaluated during training",
      )
    )
  return figures


def _series(
  rows: Sequence[dict[str, Any]], lines: dict[str, tuple[str, str]]
) -> list[Series]:
  found = []
  for metric, (name, look) in lines.items():
    kept = [row for row in rows if metric in row]
    x = [row["step"] for row in kept]
    y = [_number(row[metric]) for row in kept]
    found.append(Series(name, x, y, look))
  return found


def _number(value: Any) -> float | None:
  """A number as it can be drawn; null (not finite when written) is a gap."""
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return float(value) if is_number else None


def _facts(stage: Stage) -> str:
  """Steps, time and speed in a few words."""
  facts = [f"{len(stage.rows):,} steps"]
  seconds = [v for row in stage.rows if (v := _number(row.get("seconds")))]
  if seconds:
    facts.append(duration(sum(seconds)))
  pairs = sorted(v for r in stage.rows if (v := _number(r.get("pairs_per_s"))))
  if pairs:
    facts.append(f"{charts.number(pairs[len(pairs) // 2])} pairs/s")
  mfu = sorted(v for r in stage.rows if (v := _number(r.get("mfu"))))
  if mfu:
    facts.append(f"MFU {mfu[len(mfu) // 2]:.0%}")
  return " · ".join(facts)


def duration(seconds: float) -> str:
  """ "48 s", "3 min 5 s", "2 h 10 min"."""
  whole = round(seconds)
  if whole < 60:
    return f"{whole} s"
  if whole < 3600:
    return f"{whole // 60} min {whole % 60} s"
  return f"{whole // 3600} h {whole % 3600 // 60} min"


def _rest(stage: Stage) -> str:
  names = dict.fromkeys(
    name
    for row in stage.rows
    for name, value in row.items()
    if name != "step" and name not in _SHOWN and _number(value) is not None
  )
  figures = []
  for name in names:
    series = _series(stage.rows, {name: (name, "a")})
    values = {v for s in series for v in s.y if v is not None}
    if len(values) > 1:  # a constant needs no chart
      form: Callable[..., str] = charts.number
      label = _UNITS.get(name, name.rsplit("/", 1)[-1].replace("_", " "))
      figures.append(charts.line_chart(name, series, label, form=form))
  if not figures:
    return ""
  return (
    f"<details><summary>Other metrics<small>{len(figures)} charts</small>"
    f'</summary><div class="charts">{"".join(figures)}</div></details>'
  )
