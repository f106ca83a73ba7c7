"""Runs an evaluation: generates or reads answers, scores them, writes both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from povid_jax import llm
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import answers, ask, dry_run, flags, judge, needs, results
from povid_jax.eval.answers import Matched
from povid_jax.eval.protocol import Benchmark, Options, Scored
from povid_jax.eval.request import Request
from povid_jax.llm.failures import api_key
from povid_jax.progress import digits


@dataclass(frozen=True)
class Results:
  """The results of an evaluation, as in results.json.

  Attributes:
    rows: one per metric: benchmark, metric, value, n, ci95.
    settings: what the numbers depend on.
  """

  rows: Sequence[dict[str, Any]]
  settings: Mapping[str, Any]

  @property
  def scores(self) -> dict[str, float]:
    """ "benchmark/metric" -> value."""
    return {f"{r['benchmark']}/{r['metric']}": r["value"] for r in self.rows}


def read_results(out: Path) -> Results:
  """The results that an earlier evaluation left in its folder.

  Raises:
    UserError: results.json is missing or cannot be read.
  """
  held = needs.read_json(out / "results.json")
  return Results(held["results"], held.get("settings", {}))


def check(request: Request) -> None:
  """Finds the errors that would stop the evaluation, without using a model.

  Raises:
    UserError: files or pictures that are missing, a benchmark without
      questions, a judged benchmark without a judge or without its key.
  """
  folders = _folders(request)
  for server in _judges(request):
    api_key(server)
  for benchmark in request.benchmarks:
    if benchmark.questions is None:
      continue
    options = request.options[benchmark.name]
    folder = folders[benchmark.name]
    questions = needs.questions(benchmark, folder, options)
    if benchmark.prepare is None:  # else its pictures are made while it runs
      ask.check_pictures(benchmark, folder, questions)


def evaluate(request: Request, policy: Any = None) -> Results:
  """Answers and scores every benchmark, and writes the results to `out`.

  Args:
    policy: a model in memory that is asked in place of the one that
      `request.checkpoint` names.

  Raises:
    UserError: as `check`; answers that do not belong to the questions; a
      judge that fails.
  """
  # user errors are found before a model is loaded
  folders = _folders(request)
  _judges(request)
  questions = {
    b.name: _questions(request, b, folders[b.name]) for b in request.benchmarks
  }
  settings = _settings(request, folders)
  if policy is None and request.checkpoint:
    policy = _load_policy(request)
  if policy is not None:
    settings["checkpoint_hash"] = policy.fingerprint
  rows, given, scored = [], [], {}
  for benchmark in request.benchmarks:
    name, folder = benchmark.name, folders[benchmark.name]
    options = request.options[name]
    if benchmark.measure is not None:
      scored[name] = benchmark.measure(policy, folder, options)
      _note_measured(settings, scored[name], name)
      given += [{"benchmark": name, **row} for row in scored[name].answers]
    else:
      matched = _answered(request, benchmark, policy, questions[name])
      first = matched.questions[:1]
      settings["prompt"][name] = first[0].text if first else ""
      scored[name] = _score(benchmark, folder, matched, options)
      given += _answer_rows(benchmark, matched)
      if benchmark.write is not None:
        benchmark.write(request.out, folder, matched.questions, matched.answers)
    settings["notes"][name] = scored[name].notes
    settings["measured_by"][name] = scored[name].settings
    rows += results.rows(benchmark, scored[name], options, request.resamples)
  results.write(request.out, rows, settings, given, scored, request.benchmarks)
  return Results(rows, settings)


def estimate(request: Request) -> int:
  """`--dry-run`: prints the estimated cost of the judges; sends no request."""
  _judges(request)
  return dry_run.run(request, _folders(request))


def show(found: Results, out: Path) -> None:
  """Prints one line per metric, the notes, and where the results are."""
  width = max(len(f"{r['benchmark']} {r['metric']}") for r in found.rows)
  for row in found.rows:
    low, high = row["ci95"]
    name = f"{row['benchmark']} {row['metric']}"
    how = results.decoding_words(found.settings, row["benchmark"])
    print(
      f"{name:<{width}}  {digits(row['value'])}  "
      f"[{digits(low)}, {digits(high)}]  "
      f"n={row['n']}  {how}"
    )
  for name, notes in found.settings["notes"].items():
    for note in notes:
      print(f"{name}: {note}")
  print(f"{out / 'results.json'}, {out / 'results.md'}")


def _folders(request: Request) -> dict[str, Path]:
  return {b.name: _folder(request, b) for b in request.benchmarks}


def _folder(request: Request, benchmark: Benchmark) -> Path:
  if request.data is not None:
    return needs.locate(request.data, benchmark)
  if request.pairs is not None and benchmark.keep_adapter:
    return request.pairs
  if request.answers is not None and request.answers.is_dir():
    return needs.locate(request.answers, benchmark)  # MME's files hold both
  raise UserError(
    "--data is missing; give the folder that contains <benchmark>/"
  )


def _judges(request: Request) -> list[llm.Options]:
  """The servers of the judges; UserError if one is needed and not given."""
  return [
    judge.of(request.options[b.name]).server
    for b in request.benchmarks
    if b.judged
  ]


def _settings(request: Request, folders: dict[str, Path]) -> dict[str, Any]:
  asked = request.checkpoint is not None
  first = request.benchmarks[0].name
  return {
    "checkpoint": request.checkpoint,
    "checkpoint_hash": None,
    "answers": None if asked else str(request.answers),
    "decoding": {name: dict(how) for name, how in request.decoding.items()}
    if asked
    else None,
    "prompt": {},
    "options": flags.rules(request.options[first]),
    "bootstrap": {"resamples": request.resamples, "seed": request.seed},
    "data_hash": {
      b.name: results.data_hash(b, folders[b.name]) for b in request.benchmarks
    },
    "versions": results.versions(),
    "measured_by": {},
    "notes": {},
  }


def _note_measured(settings: dict[str, Any], one: Scored, name: str) -> None:
  """What a benchmark that asks for itself has asked, and from which files."""
  if one.prompt is not None:
    settings["prompt"][name] = one.prompt
  if one.data_hash is not None:
    settings["data_hash"][name] = one.data_hash


def _load_policy(request: Request) -> Any:
  from povid_jax.generate import (
    answering,  # JAX is not needed to score given answers
  )

  assert request.checkpoint is not None
  apart = any(benchmark.keep_adapter for benchmark in request.benchmarks)
  return answering.load_policy(
    request.checkpoint, request.dtype, merge_adapter=not apart
  )


def _score(
  benchmark: Benchmark, folder: Path, matched: Matched, options: Options
) -> Scored:
  assert benchmark.score is not None  # else it has `measure`
  scored = benchmark.score(folder, matched.questions, matched.answers, options)
  scored.notes[:0] = matched.notes
  return scored


def _answered(
  request: Request,
  benchmark: Benchmark,
  policy: Any,
  questions: Sequence[Question],
) -> Matched:
  """Questions with answers, asked for or given."""
  if policy is not None:
    how = request.decoding[benchmark.name]
    found = ask.ask(
      benchmark, policy, questions, how, request.out, request.overwrite
    )
    return Matched(list(questions), list(found))
  assert request.answers is not None  # else there is a checkpoint
  options = request.options[benchmark.name]
  return answers.match(
    questions,
    answers.read(request.answers, benchmark, request.answer_field),
    benchmark,
    request.missing,
    ignore_unknown=options.limit is not None or options.split is not None,
  )


def _questions(
  request: Request, benchmark: Benchmark, folder: Path
) -> list[Question]:
  if benchmark.questions is None:
    if request.checkpoint is None:
      raise UserError(
        f"{benchmark.name} reads the attention or log-probs of a model, so it "
        "needs --checkpoint"
      )
    return []
  options = request.options[benchmark.name]
  if request.checkpoint is not None:
    return ask.prepare(benchmark, folder, options, request.out)
  return needs.questions(benchmark, folder, options)


def _answer_rows(
  benchmark: Benchmark, matched: Matched
) -> list[dict[str, Any]]:
  pairs = zip(matched.questions, matched.answers, strict=True)
  return [
    {
      "benchmark": benchmark.name,
      "question_id": question.question_id,
      "prompt": question.text,
      "text": text,
    }
    for question, text in pairs
    if text is not None
  ]
