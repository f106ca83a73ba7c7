"""Asks a model the benchmarks' questions, scores its answers, keeps both."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import (
  answers,
  ask,
  dry_run,
  flags,
  judge,
  needs,
  results,
)
from povid_jax.eval.answers import Matched
from povid_jax.eval.protocol import Benchmark, Options, Scored


def evaluate(args: argparse.Namespace, policy: Any = None) -> int:
  """Answers and scores every benchmark, then writes and prints the results."""
  chosen = flags.benchmarks(args.benchmarks)
  # everything a user can have got wrong is found before a model is loaded
  folders = {b.name: _folder(args, b) for b in chosen}
  options = {b.name: flags.options(args, b) for b in chosen}
  for benchmark in chosen:
    if benchmark.judged:
      judge.of(options[benchmark.name])
  if args.dry_run:
    return dry_run.run(args, chosen, folders, options)
  questions = {
    b.name: _questions(args, b, folders[b.name], options[b.name])
    for b in chosen
  }
  settings = _settings(args, chosen, folders, options)
  if policy is None and args.checkpoint:
    policy = _load_policy(args, chosen)
  if policy is not None:
    settings["checkpoint_hash"] = policy.fingerprint
  rows, given, scored = [], [], {}
  for benchmark in chosen:
    name, folder = benchmark.name, folders[benchmark.name]
    if benchmark.measure is not None:
      scored[name] = benchmark.measure(policy, folder, options[name])
      _note_measured(settings, scored[name], name)
      given += [{"benchmark": name, **row} for row in scored[name].answers]
    else:
      matched = _answered(
        args, benchmark, policy, questions[name], options[name]
      )
      first = matched.questions[:1]
      settings["prompt"][name] = first[0].text if first else ""
      scored[name] = _score(benchmark, folder, matched, options[name])
      given += _answer_rows(benchmark, matched)
      if benchmark.write is not None:
        benchmark.write(args.out, folder, matched.questions, matched.answers)
    settings["notes"][name] = scored[name].notes
    settings["measured_by"][name] = scored[name].settings
    rows += results.rows(benchmark, scored[name], options[name], args.resamples)
  results.write(args.out, rows, settings, given, scored, chosen)
  _show(rows, settings, args.out)
  return 0


def _folder(args: argparse.Namespace, benchmark: Benchmark) -> Path:
  if args.data is not None:
    return needs.locate(args.data, benchmark)
  if args.pairs is not None and benchmark.keep_adapter:
    return args.pairs
  if args.answers is not None and args.answers.is_dir():
    return needs.locate(args.answers, benchmark)  # MME's files hold both
  raise UserError("--data is missing: the folder that holds <benchmark>/")


def _settings(
  args: argparse.Namespace,
  chosen: Sequence[Benchmark],
  folders: dict[str, Path],
  options: dict[str, Options],
) -> dict[str, Any]:
  asked = args.checkpoint is not None
  return {
    "checkpoint": args.checkpoint,
    "checkpoint_hash": None,
    "answers": None if asked else str(args.answers),
    "decoding": {b.name: flags.decoding(args, b) for b in chosen}
    if asked
    else None,
    "prompt": {},
    "options": flags.rules(options[chosen[0].name]),
    "bootstrap": {"resamples": args.resamples, "seed": args.seed},
    "data_hash": {
      b.name: results.data_hash(b, folders[b.name]) for b in chosen
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


def _load_policy(args: argparse.Namespace, chosen: Sequence[Benchmark]) -> Any:
  from povid_jax.generate import (
    answering,  # JAX is not needed to score given answers
  )

  apart = any(benchmark.keep_adapter for benchmark in chosen)
  return answering.load_policy(
    args.checkpoint, args.dtype, merge_adapter=not apart
  )


def _score(
  benchmark: Benchmark, folder: Path, matched: Matched, options: Options
) -> Scored:
  assert benchmark.score is not None  # else it has `measure`
  scored = benchmark.score(folder, matched.questions, matched.answers, options)
  scored.notes[:0] = matched.notes
  return scored


def _answered(
  args: argparse.Namespace,
  benchmark: Benchmark,
  policy: Any,
  questions: Sequence[Question],
  options: Options,
) -> Matched:
  """Questions with answers, asked for or given."""
  if policy is not None:
    how = flags.decoding(args, benchmark)
    found = ask.ask(benchmark, policy, questions, how, args.out, args.overwrite)
    return Matched(list(questions), list(found))
  return answers.match(
    questions,
    answers.read(args.answers, benchmark),
    benchmark,
    args.missing,
    ignore_unknown=options.limit is not None or options.split is not None,
  )


def _questions(
  args: argparse.Namespace,
  benchmark: Benchmark,
  folder: Path,
  options: Options,
) -> list[Question]:
  if benchmark.questions is None:
    if args.checkpoint is None:
      raise UserError(
        f"{benchmark.name} looks into the model: it needs --checkpoint"
      )
    return []
  if args.checkpoint is not None:
    return ask.prepare(benchmark, folder, options, args.out)
  return benchmark.questions(folder, options)


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


def _show(
  rows: Sequence[dict[str, Any]], settings: dict[str, Any], out: Path
) -> None:
  width = max(len(f"{row['benchmark']} {row['metric']}") for row in rows)
  for row in rows:
    low, high = row["ci95"]
    name = f"{row['benchmark']} {row['metric']}"
    how = results.decoding_words(settings, row["benchmark"])
    print(
      f"{name:<{width}}  {row['value']:.4f}  [{low:.4f}, {high:.4f}]  "
      f"n={row['n']}  {how}"
    )
  for name, notes in settings["notes"].items():
    for note in notes:
      print(f"{name}: {note}")
  print(f"{out / 'results.json'}, {out / 'results.md'}")
