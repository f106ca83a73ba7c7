"""The scores as a reader sees them: tiles, tables with intervals, charts."""

from collections.abc import Iterable, Sequence

from povid_jax.errors import UserError
from povid_jax.eval import matched_recall
from povid_jax.eval.bootstrap import Difference
from povid_jax.report import charts, scatter
from povid_jax.report.html import escape
from povid_jax.report.load import Evaluation, Run, Score
from povid_jax.report.scores import (
  CONTROL,
  LOOKS,
  METRICS,
  NAMES,
  Metric,
  differences,
  ends,
  of_split,
  points,
  split_name,
  splits,
  stage_name,
  verdict,
)


def tiles(run: Run) -> str:
  """Before and after, large, on the headline split."""
  for split in splits(run):
    pair = ends(of_split(run, split))
    if pair is None:
      continue
    gaps = differences(*pair)
    before, after = (e.scores for e in pair)
    shown = [
      _tile(metric, before.get(metric.key), after.get(metric.key), gaps)
      for metric in METRICS[:4]
    ]
    if any(shown):
      return f'<div class="tiles">{"".join(shown)}</div>'
  return ""


def _tile(
  metric: Metric,
  before: Score | None,
  after: Score | None,
  gaps: dict[str, Difference],
) -> str:
  if before is None or after is None:
    return ""
  change = metric.better
  if (gap := gaps.get(metric.key)) is not None:
    kind = verdict(metric, gap)
    change = f'<span class="{kind}">{points(gap, metric)} points</span>'
  return (
    f'<div class="tile"><p class="what">{escape(metric.meaning.capitalize())}'
    f" ({escape(metric.name)})</p>"
    f'<p class="values"><span class="before">{metric.form(before.value)}</span>'
    f'<span class="arrow" aria-label="to">→</span>'
    f'<span class="after">{metric.form(after.value)}</span></p>'
    f'<p class="change">{change}</p></div>'
  )


def section(run: Run) -> str:
  """Tables and charts of every split."""
  if not run.evaluations:
    return ""
  parts = ['<section id="results"><h2>Before and after</h2>', _intro(run)]
  for split in splits(run):
    found = of_split(run, split)
    parts.append(f"<h3>{escape(split_name(split).capitalize())}</h3>")
    parts += [_table(found), _figures(found), _trade(found)]
    parts.append(_repeats(run, split))
  parts += [_everything(run), "</section>"]
  return "".join(parts)


def _intro(run: Run) -> str:
  sizes = {
    e.scores["chair/CHAIRs"].n
    for e in run.evaluations
    if "chair/CHAIRs" in e.scores
  } - {0}
  pictures = f" on {max(sizes):,} pictures never trained on" if sizes else ""
  return (
    f'<p class="lead">Scores{pictures}. In brackets, 95% intervals (bootstrap '
    "over pictures). Below them, the difference from the base in points, on "
    "the same pictures (paired); coloured if its interval excludes zero."
    "</p>"
  )


def _table(found: Sequence[Evaluation]) -> str:
  metrics = [m for m in METRICS if any(m.key in e.scores for e in found)]
  if not metrics:
    return ""
  head = "".join(
    f"<th>{escape(m.name)}<small>{escape(m.better or 'words')}</small></th>"
    for m in metrics
  )
  rows, minor_seen = [], False
  for evaluation in found:
    gaps = differences(found[0], evaluation)
    minor = evaluation.stage not in LOOKS
    kind = "minor" if minor else ""
    kind += " divide" if minor and not minor_seen else ""
    minor_seen |= minor
    note = NAMES.get(evaluation.stage, ("", ""))[1]
    cells = "".join(
      _cell(m, evaluation.scores.get(m.key), gaps.get(m.key)) for m in metrics
    )
    rows.append(
      f'<tr class="{kind}"><th scope="row">'
      f"{escape(stage_name(evaluation.stage))}<small>{escape(note)}</small>"
      f"</th>{cells}</tr>"
    )
  return (
    f'<div class="scroll" tabindex="0"><table class="scores"><thead><tr>'
    f"<th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
  )


def _cell(metric: Metric, score: Score | None, gap: Difference | None) -> str:
  if score is None:
    return '<td class="soft">–</td>'
  text = f"<b>{metric.form(score.value)}</b>"
  if score.low is not None and score.high is not None:
    low, high = (metric.form(v).rstrip("%") for v in (score.low, score.high))
    text += f"<small>[{low}, {high}]</small>"
  if gap is not None:
    kind = verdict(metric, gap)
    text += f'<small class="{kind}">{points(gap, metric)}</small>'
  return f"<td>{text}</td>"


def _dot(evaluation: Evaluation, key: str) -> charts.Dot | None:
  score = evaluation.scores.get(key)
  if score is None:
    return None
  low = score.value if score.low is None else score.low
  high = score.value if score.high is None else score.high
  look = LOOKS.get(evaluation.stage, "c")
  return charts.Dot(stage_name(evaluation.stage), score.value, low, high, look)


def _figures(found: Sequence[Evaluation]) -> str:
  figures = []
  for metric in METRICS[:4]:
    dots = _present(_dot(e, metric.key) for e in found)
    if len(dots) > 1:
      figures.append(
        charts.interval_chart(
          metric.name, dots, metric.better, note=metric.meaning
        )
      )
  return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def _trade(found: Sequence[Evaluation]) -> str:
  """Inventions against objects found, and the last stage beside the control."""
  crosses = [
    (x, y)
    for x, y in (
      (_dot(e, "chair/recall"), _dot(e, "chair/CHAIRi")) for e in found
    )
    if x is not None and y is not None
  ]
  chart = scatter.scatter(
    "Inventions against objects found", crosses, "recall", "CHAIRi"
  )
  if not chart:
    return ""
  return (
    f'<div class="beside">{chart}<div><h4>Not by saying less?</h4><p>Lower '
    "points have fewer inventions, points further right found more objects. "
    "A model that only writes less moves down and to the left.</p>"
    f"{_at_equal_recall(found)}{_against_control(found)}</div></div>"
  )


def _at_equal_recall(found: Sequence[Evaluation]) -> str:
  """CHAIRi of the last stage against the base cut to the same recall."""
  pair = ends(found)
  if pair is None or pair[0].folder is None or pair[1].folder is None:
    return ""
  try:
    _, matched = matched_recall.match([(pair[0].folder, pair[1].folder)])
  except UserError:  # no verdicts of captions, or of other pictures
    return ""
  metric = next(m for m in METRICS if m.key == "chair/CHAIRi")
  gap = matched.chair
  return (
    f"<p>At the same recall ({matched.recall:.1%}: the answers of "
    f"{escape(stage_name(pair[0].stage))} are cut after so many objects that "
    "they reach it) the share of invented objects is "
    f"{metric.form(gap.a)} against {metric.form(gap.b)}, a difference of "
    f'<b class="{verdict(metric, gap)}">{points(gap, metric)}</b> points, '
    f"p {_p(gap.p)}.</p>"
  )


def _against_control(found: Sequence[Evaluation]) -> str:
  """Last stage minus SFT continued for as long on the same chosen answers."""
  by_stage = {e.stage: e for e in found}
  pair = ends(found)
  control = by_stage.get(CONTROL)
  if pair is None or control is None:
    return ""
  gaps = differences(control, pair[1])
  rows = "".join(
    f"<tr><td>{escape(m.name)}</td>"
    f'<td class="{verdict(m, gaps[m.key])}">{points(gaps[m.key], m)}</td>'
    f"<td>p {_p(gaps[m.key].p)}</td></tr>"
    for m in METRICS[:4]
    if m.key in gaps
  )
  if not rows:
    return ""
  return (
    "<h4>Not by training longer?</h4>"
    f"<p>{escape(stage_name(pair[1].stage))} minus "
    f"{escape(stage_name(CONTROL))}, which trains as long on the same chosen "
    "answers without preferences; in points:</p>"
    f'<table class="gaps">{rows}</table>'
  )


def _p(p: float) -> str:
  return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def _present(dots: Iterable[charts.Dot | None]) -> list[charts.Dot]:
  return [dot for dot in dots if dot is not None]


def _repeats(run: Run, split: str) -> str:
  """Means over runs of the same kind (other seeds), each value below."""
  runs = [(run.title, of_split(run, split))]
  runs += [
    (name, [e for e in evaluations if e.split == split])
    for name, evaluations in run.repeats
  ]
  if len(runs) < 2:
    return ""
  metrics = [
    m for m in METRICS if any(m.key in e.scores for _, es in runs for e in es)
  ]
  stages = dict.fromkeys(e.stage for _, found in runs for e in found)
  rows = []
  for stage in stages:
    of_stage = [e for _, found in runs for e in found if e.stage == stage]
    cells = "".join(
      _mean([e.scores[m.key].value for e in of_stage if m.key in e.scores], m)
      for m in metrics
    )
    kind = "" if stage in LOOKS else "minor"
    name = escape(stage_name(stage))
    rows.append(f'<tr class="{kind}"><th scope="row">{name}</th>{cells}</tr>')
  head = "".join(f"<th>{escape(m.name)}</th>" for m in metrics)
  names = ", ".join(name for name, _ in runs)
  return (
    f"<h3>The same over {len(runs)} runs</h3>"
    f'<p class="lead">Means, and below them the values of {escape(names)}.</p>'
    '<div class="scroll" tabindex="0"><table class="scores"><thead><tr>'
    f"<th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
  )


def _mean(values: Sequence[float], metric: Metric) -> str:
  if not values:
    return '<td class="soft">–</td>'
  each = " · ".join(metric.form(value).rstrip("%") for value in values)
  mean = metric.form(sum(values) / len(values))
  return f"<td><b>{mean}</b><small>{each}</small></td>"


def _everything(run: Run) -> str:
  """All metrics of all runs, folded."""
  keys = dict.fromkeys(key for e in run.evaluations for key in e.scores)
  if not keys:
    return ""
  columns = [(e.stage, e.split) for e in run.evaluations]
  head = "".join(
    f"<th>{escape(stage_name(stage))}<small>{escape(split_name(split))}</small>"
    "</th>"
    for stage, split in columns
  )
  rows = "".join(
    f'<tr class="minor"><th scope="row">{escape(key)}</th>'
    + "".join(
      "<td>–</td>"
      if (score := e.scores.get(key)) is None
      else f"<td>{score.value:.4g}</td>"
      for e in run.evaluations
    )
    + "</tr>"
    for key in keys
  )
  return (
    f"<details><summary>Every metric<small>{len(keys)} rows</small></summary>"
    f'<div class="scroll"><table class="scores"><thead><tr><th></th>{head}</tr>'
    f"</thead><tbody>{rows}</tbody></table></div></details>"
  )
