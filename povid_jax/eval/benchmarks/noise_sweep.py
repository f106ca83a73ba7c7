"""Hallucination as a function of noise: CHAIR over distorted pictures.

The pictures and questions of CHAIR, asked once clean and once under the
diffusion noise of each step of --noise-steps (POVID's stage 2 uses 500 of
1000). Metrics are CHAIR's, by step:

  <step>/CHAIRs, <step>/CHAIRi, <step>/recall   as CHAIR's; <step> is `clean`
                   or a number
  <step>/objects_per_caption, <step>/length   as CHAIR's

The noise of a picture is a function of --seed, the picture and the step, so
checkpoints are compared under the same noise.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.eval import inside, needs, results
from povid_jax.eval.benchmarks import chair
from povid_jax.eval.protocol import (
  Benchmark,
  Column,
  Flags,
  Metrics,
  Options,
  Scored,
  Totals,
)

CLEAN = "clean"
STEPS = f"{CLEAN},250,500,750,999"


def measure(policy: Any, data: Path, options: Options) -> Scored:
  """Asks and scores at every step; a unit is a picture."""
  from povid_jax.generate.answering import Noise

  data = _chair_folder(data)
  questions = chair.questions(data, options)
  scored = Scored(data_hash=results.data_hash(chair.BENCHMARK, data))
  scored.prompt = questions[0].text if questions else ""
  for step in options.extra["noise_steps"]:
    noise = None if step is None else Noise(step, seed=options.seed)
    given = inside.answers(policy, questions, options, "noise_sweep", noise)
    one = chair.score(data, questions, given, options)
    name = CLEAN if step is None else str(step)
    _join(scored, one, name)
    scored.answers += inside.rows(questions, given, f"@{name}")
  return scored


def _chair_folder(data: Path) -> Path:
  """Where CHAIR's files are: DATA/noise_sweep, else DATA/chair."""
  patterns = [n.pattern for n in chair.BENCHMARK.needs if not n.optional]
  for folder in (data, data / "chair", data.parent / "chair"):
    if all(any(folder.glob(pattern)) for pattern in patterns):
      return folder
  needs.check(chair.BENCHMARK, data)
  raise UserError(f"noise_sweep: the files of CHAIR are not in {data}")


def _join(scored: Scored, one: Scored, step: str) -> None:
  for unit, counts in one.units.items():
    scored.count(unit, _under(step, counts))
  for verdict in one.verdicts:
    name = f"{verdict['question_id']}@{step}"
    scored.verdicts.append({**verdict, "question_id": name, "step": step})
  scored.notes += [f"{step}: {note}" for note in one.notes]


def _under(step: str, counts: Mapping[str, float]) -> dict[str, float]:
  return {f"{step}/{name}": value for name, value in counts.items()}


def metrics(totals: Totals, options: Options) -> Metrics:
  """CHAIR's metrics of each step that was asked, in the order of noise."""
  steps = {name.partition("/")[0] for name in totals}
  for step in sorted(steps, key=lambda s: -1 if s == CLEAN else int(s)):
    head = f"{step}/"
    own = {
      name.removeprefix(head): value
      for name, value in totals.items()
      if name.startswith(head)
    }
    for name, value in chair.metrics(own, options):
      yield head + name, value


def _add_flags(group: Any) -> None:
  group.add_argument(
    "--noise-steps",
    default=STEPS,
    metavar="K,...",
    help=f"diffusion steps 0..999, or {CLEAN} ({STEPS})",
  )


def read_steps(value: str) -> tuple[int | None, ...]:
  """ "clean,500" -> (None, 500)."""
  steps: list[int | None] = []
  for word in filter(None, (word.strip() for word in value.split(","))):
    if word != CLEAN and not re.fullmatch(r"[0-9]{1,3}", word):
      raise UserError(
        f"--noise-steps={value}: want steps 0..999 or {CLEAN}, got {word!r}"
      )
    steps.append(None if word == CLEAN else int(word))
  if not steps:
    raise UserError("--noise-steps: want at least one step")
  return tuple(dict.fromkeys(steps))


BENCHMARK = Benchmark(
  name="noise_sweep",
  flags=Flags(
    "noise_sweep",
    _add_flags,
    lambda args: {"noise_steps": read_steps(args.noise_steps)},
  ),
  title="Noise sweep",
  needs=(),
  metrics=metrics,
  measure=measure,
  columns=tuple(
    Column(f"{step}/{name}", f"{heading} at {step}")
    for step in STEPS.split(",")
    for name, heading in (("CHAIRs", "CHAIR_S"), ("CHAIRi", "CHAIR_I"))
  ),
  max_new_tokens=chair.BENCHMARK.max_new_tokens,
)
