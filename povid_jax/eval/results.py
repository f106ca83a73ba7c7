"""Writes the files of an evaluation: results, answers, verdicts, counts."""

import hashlib
import importlib.metadata
import itertools
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import povid_jax
from povid_jax.errors import UserError
from povid_jax.eval import bootstrap, needs, protocol
from povid_jax.eval.protocol import Benchmark, Options, Scored
from povid_jax.files import atomic_write

PACKAGES = ("numpy", "jax", "flax", "inflect", "pillow")


def rows(
  benchmark: Benchmark, scored: Scored, options: Options, resamples: int
) -> list[dict[str, Any]]:
  """The entries of results.json for one benchmark.

  Raises:
    UserError: there was nothing to score.
  """
  if not scored.units:
    said = "; ".join(scored.notes) or "no questions"
    raise UserError(f"{benchmark.name}: there is nothing to score: {said}")
  totals = protocol.total(scored.units)
  found = bootstrap.intervals(benchmark, scored.units, options, resamples)
  return [
    {
      "benchmark": benchmark.name,
      "metric": name,
      "value": interval.value,
      "n": protocol.items(totals, name),
      "ci95": [interval.low, interval.high],
    }
    for name, interval in found.items()
  ]


def data_hash(benchmark: Benchmark, folder: Path) -> str:
  """`hash_files` of the benchmark's files."""
  found = (sorted(folder.glob(need.pattern)) for need in benchmark.needs)
  return hash_files(itertools.chain.from_iterable(found))


def hash_files(paths: Iterable[Path]) -> str:
  """The start of a sha256 over names and bytes of files."""
  digest = hashlib.sha256()
  for path in paths:
    digest.update(path.name.encode())
    with open(path, "rb") as file:
      digest.update(hashlib.file_digest(file, "sha256").digest())
  return digest.hexdigest()[:16]


def digest(value: Any) -> str:
  """A short hash of anything that JSON can hold."""
  text = json.dumps(value, ensure_ascii=False, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
  """Versions of what the numbers depend on."""
  found = {"povid_jax": povid_jax.__version__}
  found["python"] = platform.python_version()
  for package in PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
  """One JSON object per line, whole or not at all."""
  with atomic_write(path) as file:
    for entry in entries:
      file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def write(
  out: Path,
  results: Sequence[Mapping[str, Any]],
  settings: Mapping[str, Any],
  answers: Sequence[Mapping[str, Any]],
  scored: Mapping[str, Scored],
  benchmarks: Sequence[Benchmark],
) -> None:
  """Writes the files of an evaluation into a folder.

  results.json  {"results": [...], "settings": {...}}
  results.md    the paper's columns, what they mean, settings, every metric
  answers.jsonl LLaVA's rows with the benchmark's name
  verdicts.jsonl one judged item per line
  counts.jsonl  what each unit of resampling adds up to, for `compare`
  """
  write_lines(out / "answers.jsonl", answers)
  write_lines(
    out / "verdicts.jsonl",
    ({"benchmark": n, **v} for n, s in scored.items() for v in s.verdicts),
  )
  write_lines(
    out / "counts.jsonl",
    (
      {"benchmark": name, "unit": unit, "counts": counts}
      for name, one in scored.items()
      for unit, counts in one.units.items()
    ),
  )
  with atomic_write(out / "results.md") as file:
    file.write(markdown(results, settings, benchmarks))
  # last: a folder with results.json is complete
  with atomic_write(out / "results.json") as file:
    value = {"results": list(results), "settings": dict(settings)}
    json.dump(value, file, indent=1, ensure_ascii=False)
    file.write("\n")


def read(out: Path) -> dict[str, Any]:
  """A run's results.json; UserError where there is none."""
  path = out / "results.json"
  if not path.exists():
    raise UserError(
      f"{out}: no results.json; want a folder that was --out of povid_jax.eval"
    )
  value = needs.read_json(path)
  if not isinstance(value, dict) or "results" not in value:
    raise UserError(f"{path}: expected an object with 'results'")
  return value


def number(value: float, scale: float = 1.0) -> str:
  """A value as tables show it."""
  return f"{value * scale:.1f}" if scale != 1 else f"{value:.3g}"


def markdown(
  results: Sequence[Mapping[str, Any]],
  settings: Mapping[str, Any],
  benchmarks: Sequence[Benchmark],
) -> str:
  """Tables of a run: one row of the paper's columns, then everything."""
  heads, cells = _paper(results, settings, benchmarks)
  lines = ["# Results", "", "Value and 95% interval (bootstrap over images)."]
  lines += ["", _row(heads), _row("---" for _ in heads), _row(cells)]
  for benchmark in benchmarks:
    if meaning := benchmark.meanings():
      lines += ["", f"## What {benchmark.title} counts", "", meaning]
  lines += ["", "## How the answers were made", ""]
  lines += [f"- {name}: {_plain(value)}" for name, value in settings.items()]
  lines += ["", "## Every metric", "", _row(_HEAD), _row("---" for _ in _HEAD)]
  for row in results:
    low, high = row["ci95"]
    interval = f"[{low:.4g}, {high:.4g}]"
    lines.append(
      _row(
        (
          row["benchmark"],
          row["metric"],
          f"{row['value']:.4g}",
          interval,
          str(row["n"]),
        )
      )
    )
  return "\n".join(lines) + "\n"


def _paper(
  results: Sequence[Mapping[str, Any]],
  settings: Mapping[str, Any],
  benchmarks: Sequence[Benchmark],
) -> tuple[list[str], list[str]]:
  """The paper's columns of this run: headings and cells."""
  by_name = {(r["benchmark"], r["metric"]): r for r in results}
  heads = ["Model"]
  cells = [str(settings.get("checkpoint") or settings.get("answers"))]
  for benchmark in benchmarks:
    for column in benchmark.columns:
      row = by_name.get((benchmark.name, column.metric))
      if row is not None:
        low, high = (number(v, column.scale) for v in row["ci95"])
        heads.append(f"{benchmark.title} {column.heading}".strip())
        cells.append(f"{number(row['value'], column.scale)} [{low}, {high}]")
    heads.append(f"{benchmark.title} decoding")
    cells.append(decoding_words(settings, benchmark.name))
  return heads, cells


def decoding_words(settings: Mapping[str, Any], benchmark: str) -> str:
  """How a benchmark's answers were decoded, in a few words."""
  how = (settings.get("decoding") or {}).get(benchmark)
  if how is None:
    return "answers given"
  choice = "greedy"
  if how["temperature"]:
    choice = f"temperature {how['temperature']:g}, top-p {how['top_p']:g}"
    choice += f", top-k {how['top_k']}" if how["top_k"] else ""
    choice += f", seed {how['seed']}"
  return f"{choice}, <= {how['max_new_tokens']} tokens"


_HEAD = ("benchmark", "metric", "value", "95% interval", "n")


def _row(cells: Iterable[str]) -> str:
  return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(value: Any) -> str:
  if isinstance(value, str):
    return value
  return "`" + json.dumps(value, ensure_ascii=False) + "`"
