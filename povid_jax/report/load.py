"""Reads what a run left on disk into plain records; draws nothing."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from povid_jax.data.pairs import Sample
from povid_jax.data.samples import read_samples
from povid_jax.errors import UserError
from povid_jax.files import json_objects, load_json
from povid_jax.report.pictures import Pictures
from povid_jax.training import metrics

# Stages in the order in which they are run; others come after, by name.
ORDER = ("pretrain", "sft", "base", "stage1", "stage2", "own_answers")
SPLITS = ("balanced", "in_distribution")

# A name in summary.json -> the names it may have in results.json.
SUMMARY_NAMES = {
  "CHAIRs": "chair/CHAIRs",
  "CHAIRi": "chair/CHAIRi",
  "recall": "chair/recall",
  "length": "chair/length",
  "pope_f1": "pope/f1",
}


@dataclasses.dataclass(frozen=True)
class Score:
  """A metric's value (a fraction, or words), with a 95% interval if known."""

  value: float
  low: float | None = None
  high: float | None = None
  n: int = 0


@dataclasses.dataclass(frozen=True)
class Stage:
  """A training run.

  Attributes:
    rows: of train.jsonl.
    config: of config.json, if there is one.
    scored: step -> scores, of evaluations during training.
  """

  name: str
  folder: Path
  rows: list[dict[str, Any]]
  config: dict[str, Any] | None
  scored: dict[int, dict[str, Score]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """One stage on one split.

  Attributes:
    scores: "chair/CHAIRs" -> Score.
    settings: of the run that made them.
    answers: question id -> answer row of the captions.
    verdicts: question id -> CHAIR verdict.
    folder: where they are; None where only summary.json is at hand.
  """

  stage: str
  split: str
  scores: dict[str, Score]
  settings: dict[str, Any]
  answers: dict[str, dict[str, Any]]
  verdicts: dict[str, dict[str, Any]]
  folder: Path | None = None


@dataclasses.dataclass(frozen=True)
class Command:
  """A command as it was typed, and what it was for."""

  command: str
  title: str = ""
  seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything a page can show; each part may be empty.

  Attributes:
    repeats: name and evaluations of further runs of the same kind, as with
      other seeds; the rest is of the first run.
  """

  title: str
  stages: list[Stage]
  evaluations: list[Evaluation]
  summary: dict[str, Any]
  pairs: list[Sample]
  commands: list[Command]
  pictures: Pictures
  repeats: list[tuple[str, list[Evaluation]]] = dataclasses.field(
    default_factory=list
  )


def stage_key(name: str) -> tuple[int, str]:
  """Sorts stages as they are run."""
  return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def load(
  folders: Sequence[Path],
  *,
  pairs: Path | None = None,
  image_dirs: Sequence[Path] = (),
  scores: Sequence[Path] = (),
) -> Run:
  """Reads run folders.

  Args:
    folders: each a folder of stages (runs/quickstart) or one training run.
    pairs: preference JSON; by default the first pairs*.json[l] found near.
    image_dirs: where pictures are looked for first.
    scores: folders that `povid_jax.eval --out` wrote; by default those in a
      folder `results` near the run that scored it or the model it began with.

  Raises:
    UserError: a folder does not exist, or none of them contains anything to
      show.
  """
  for folder in folders:
    if not folder.is_dir():
      raise UserError(f"no folder {folder}; give a run directory")
  scored = {
    folder: [*_evaluations(folder), *_results_near(folder)]
    for folder in folders
  }
  for folder in scores:
    if not (folder / "results.json").is_file():
      raise UserError(
        f"{folder} has no results.json; give --scores a folder that was --out "
        "of povid_jax.eval"
      )
    scored[folders[0]].append(_evaluation(folder, folder.name, ""))
  first = folders[0]
  repeats = [f for f in folders[1:] if scored[first] and scored[f]]
  told = [folder for folder in folders if folder not in repeats]
  stages = [stage for folder in told for stage in _stages(folder)]
  evaluations = [e for folder in told for e in scored[folder]]
  summary = _summary(told)
  if not (stages or evaluations or summary):
    raise UserError(
      f"nothing to report in {', '.join(map(str, folders))}: no "
      "metrics/train.jsonl, eval/ or summary.json below it"
    )
  found = pairs or _find_pairs(told)
  if pairs and not pairs.is_file():
    raise UserError(f"no file {pairs}; give the preference JSON with --pairs")
  return Run(
    title=first.resolve().name,
    stages=sorted(stages, key=lambda stage: stage_key(stage.name)),
    evaluations=evaluations or _from_summary(summary),
    summary=summary,
    pairs=_with_rejected(found),
    commands=[c for folder in told for c in _commands(folder)],
    pictures=Pictures([*image_dirs, *told]),
    repeats=[(folder.resolve().name, scored[folder]) for folder in repeats],
  )


def _stages(folder: Path) -> Iterator[Stage]:
  logs = sorted(folder.glob("metrics/train.jsonl"))
  logs += sorted(folder.glob("*/metrics/train.jsonl"))
  logs += sorted(folder.glob("*/*/metrics/train.jsonl"))
  for log in logs:
    home = log.parent.parent
    config = home / "config.json"
    yield Stage(
      name=str(home.relative_to(folder)) if home != folder else folder.name,
      folder=home,
      rows=metrics.read(log),
      config=load_json(config) if config.exists() else None,
      scored=_scored_steps(home),
    )


def _scored_steps(home: Path) -> dict[int, dict[str, Score]]:
  """RUN/eval/<step>/results.json, which train writes with --config.eval."""
  found = {
    int(path.parent.name): path
    for path in home.glob("eval/*/results.json")
    if path.parent.name.isdigit()
  }
  return {
    step: _scores(load_json(path).get("results", []), path)
    for step, path in sorted(found.items())
  }


def _evaluations(folder: Path) -> Iterator[Evaluation]:
  found = sorted(folder.glob("eval/*/*/results.json"))
  for results in sorted(found, key=lambda p: stage_key(p.parent.parent.name)):
    home = results.parent
    yield _evaluation(home, home.parent.name, home.name)


def _evaluation(home: Path, stage: str, split: str) -> Evaluation:
  results = home / "results.json"
  content = load_json(results)
  return Evaluation(
    stage=stage,
    split=split,
    scores=_scores(content.get("results", []), results),
    settings=content.get("settings") or {},
    answers=_by_id(home / "answers.jsonl"),
    verdicts=_by_id(home / "verdicts.jsonl", needs="mentions"),
    folder=home,
  )


def _results_near(run: Path) -> Iterator[Evaluation]:
  """results/NAME of the README's commands: scores of this run and its init.

  They lie in a folder `results` in the working directory, beside the run, or
  beside the folder of runs, and name the checkpoint that they scored.
  """
  config = run / "config.json"
  if not config.exists():
    return
  init = str(load_json(config).get("init", ""))
  wanted = {run.resolve()}
  if init:
    wanted.add(Path(init.partition("@")[0]).resolve())
  around = [Path(), *list(run.absolute().parents)[:2]]
  places = [folder / "results" for folder in around]
  found: dict[Path, Evaluation] = {}
  for place in dict.fromkeys(path.resolve() for path in places):
    for results in sorted(place.glob("*/results.json")):
      home = results.parent
      asked = (load_json(results).get("settings") or {}).get("checkpoint")
      if asked and Path(asked.partition("@")[0]).resolve() in wanted:
        found[home] = _evaluation(home, home.name, "")
  yield from sorted(found.values(), key=lambda e: stage_key(e.stage))


def _scores(rows: list[dict[str, Any]], path: Path) -> dict[str, Score]:
  scores = {}
  for row in rows:
    try:
      low, high = row.get("ci95") or (None, None)
      name = f"{row['benchmark']}/{row['metric']}"
      scores[name] = Score(float(row["value"]), low, high, row.get("n", 0))
    except (KeyError, TypeError, ValueError) as error:
      raise UserError(
        f"{path}: want rows with benchmark, metric and value, got {row}"
      ) from error
  return scores


def _by_id(path: Path, needs: str = "") -> dict[str, dict[str, Any]]:
  """Rows of the captions (other benchmarks are left out) by question id."""
  if not path.exists():
    return {}
  return {
    str(row.get("question_id")): row
    for row in json_objects(path, torn=True)
    if row.get("benchmark", "chair") == "chair" and (not needs or needs in row)
  }


def _summary(folders: Sequence[Path]) -> dict[str, Any]:
  for folder in folders:
    if (path := folder / "summary.json").exists():
      return load_json(path)
  return {}


def _from_summary(summary: dict[str, Any]) -> list[Evaluation]:
  """Values without intervals, where only summary.json is at hand."""
  found = []
  for stage, splits in summary.get("stages", {}).items():
    for split, values in splits.items():
      scores = {
        SUMMARY_NAMES.get(name, str(name)): Score(float(value))
        for name, value in values.items()
        if isinstance(value, int | float)
      }
      found.append(Evaluation(stage, split, scores, {}, {}, {}))
  return sorted(found, key=lambda e: stage_key(e.stage))


def _find_pairs(folders: Sequence[Path]) -> Path | None:
  for folder in folders:
    for pattern in ("*pairs*.json*", "data/*pairs*.json*", "*/*pairs*.json*"):
      found = [
        path
        for path in sorted(folder.glob(pattern))
        if path.suffix in (".json", ".jsonl") and path.is_file()
      ]
      if found:
        return found[0]
  return None


def _with_rejected(path: Path | None) -> list[Sample]:
  if path is None:
    return []
  return [sample for sample in read_samples(path) if sample.rejected]


def _commands(folder: Path) -> list[Command]:
  """RUN/commands.jsonl: {"command", "title"?, "seconds"?} a line."""
  path = folder / "commands.jsonl"
  if not path.exists():
    return []
  return [
    Command(str(row["command"]), str(row.get("title", "")), row.get("seconds"))
    for row in json_objects(path, torn=True)
    if "command" in row
  ]
