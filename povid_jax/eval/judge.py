"""LLM judges: prompts, and a log so that each reply is paid for only once.

Replies are kept in OUT/judge.jsonl, one line each, as they come. A run that was
killed, or that stopped at --max-cost, continues with the same command; answers
that did not change are not judged again.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from povid_jax import llm
from povid_jax.errors import UserError
from povid_jax.eval import judge_batch, needs
from povid_jax.eval.protocol import Options, Scored
from povid_jax.llm.prices import dollars, message_tokens

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Judge:
  """The judge and its settings.

  Attributes:
    server: model, address and limits; an empty model: none was given.
    prompts: benchmark (or "" for all) -> file that replaces our prompt.
    runs: how often MM-Vet judges each answer.
    temperature: "official", "default" (not sent) or a number.
    max_tokens: of a reply; None: the benchmark's own.
    batch: through the Batch API.
    max_cost: dollars for all judgements of the folder.
    dry_run: print the cost, and send no request.
    log: where replies are kept.
  """

  server: llm.Options
  prompts: Mapping[str, Path] = field(default_factory=dict)
  runs: int = 1
  temperature: str = "official"
  max_tokens: int | None = None
  batch: bool = False
  max_cost: float | None = None
  dry_run: bool = False
  log: Path | None = None


@dataclass(frozen=True)
class Prompt:
  """A judging prompt: its text, and a name and hash that results keep."""

  text: str
  version: str

  @property
  def hash(self) -> str:
    return hashlib.sha256(self.text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Task:
  """One judgement to make.

  Attributes:
    key: unique within the benchmark.
    messages: what the judge is sent, by attempt (0, 1, ...).
  """

  key: str
  messages: Callable[[int], Messages]


@dataclass(frozen=True)
class Verdict:
  """The value read from a reply; None where no attempt gave one."""

  value: Any
  text: str
  attempts: int


class DryRun(Exception):
  """Raised instead of judging: the estimated cost."""


def of(options: Options) -> Judge:
  """The judge in a benchmark's options; UserError if none was given."""
  judge: Judge | None = options.extra.get("judge")
  if judge is None or not judge.server.model:
    raise UserError(
      "a language model judges this benchmark: give one with --judge-model "
      "(and --judge-base-url for a server of your own). The papers' "
      "gpt-4-0314 and gpt-4-0613 are no longer available, so publish the "
      "name of your judge with the score"
    )
  return judge


def load_prompt(judge: Judge, benchmark: str, version: str) -> Prompt:
  """The user's file for a benchmark, or our own wording."""
  path = judge.prompts.get(benchmark, judge.prompts.get(""))
  if path is not None:
    return Prompt(needs.read_text(path), f"file {path.name}")
  own = Path(__file__).with_name(f"judge_{benchmark}.txt")
  return Prompt(needs.read_text(own), version)


def fill(prompt: Prompt, values: Mapping[str, str]) -> str:
  """Puts values into a prompt's {name}s, or into as many {} in their order.

  Other braces, also those inside the values, stay as they are.
  """
  if prompt.text.count("{}") == len(values):
    rest = iter(values.values())
    return re.sub(r"\{\}", lambda _: next(rest), prompt.text)
  names = "|".join(values)
  found = set(re.findall(rf"\{{({names})\}}", prompt.text))
  if found != set(values):
    wanted = ", ".join(f"{{{name}}}" for name in values)
    raise UserError(
      f"judge prompt ({prompt.version}): want {wanted}, or {len(values)} {{}}"
    )
  return re.sub(rf"\{{({names})\}}", lambda m: values[m[1]], prompt.text)


def settle(
  judge: Judge,
  benchmark: str,
  tasks: Sequence[Task],
  read: Callable[[str], Any],
  temperatures: Sequence[float],
  max_tokens: int,
) -> dict[str, Verdict]:
  """Has every task judged; those without a readable reply are asked again.

  Args:
    read: a reply's value, or None where it has none.
    temperatures: of the attempts; their number is how often is asked.
    max_tokens: of a reply, unless the user says otherwise.

  Returns:
    task key -> verdict.

  Raises:
    DryRun: instead of asking, if that is wanted.
    UserError: replies are missing after all retries or beyond --max-cost.
  """
  verdicts: dict[str, Verdict] = {}
  limit = judge.max_tokens or max_tokens
  for attempt, official in enumerate(temperatures):
    requests = [
      llm.Request(
        key=f"{benchmark}/{task.key}#{attempt}",
        messages=task.messages(attempt),
        max_tokens=limit,
      )
      for task in tasks
    ]
    server = replace(judge.server, temperature=_temperature(judge, official))
    if judge.dry_run:
      raise DryRun(_estimate(server, requests, limit, judge.batch))
    replies = _ask(judge, server, requests, benchmark)
    left = []
    for task, request in zip(tasks, requests, strict=True):
      text = replies[request.key].text
      value = read(text)
      verdicts[task.key] = Verdict(value, text, attempt + 1)
      left += [task] if value is None else []
    tasks = left
    if not tasks:
      break
  return verdicts


def _temperature(judge: Judge, official: float) -> float | None:
  if judge.temperature == "official":
    return official
  return None if judge.temperature == "default" else float(judge.temperature)


def _estimate(
  server: llm.Options,
  requests: Sequence[llm.Request],
  max_tokens: int,
  batch: bool,
) -> str:
  asked = sum(message_tokens(request.messages) for request in requests)
  said = f"{len(requests)} judgements, about {asked} prompt tokens"
  price = server.price
  if not price.known:
    return f"{said}; the price of {server.model} is not known (see --prices)"
  most = price.cost(asked, max_tokens * len(requests), batch)
  return f"{said}, at most {dollars(most)} with {server.model}"


def _ask(
  judge: Judge,
  server: llm.Options,
  requests: Sequence[llm.Request],
  benchmark: str,
) -> dict[str, llm.Reply]:
  if judge.batch:
    assert judge.log is not None
    judge_batch.ask(requests, server, judge.log, judge.max_cost)
  # also after a batch: replies in the log are read, and only missing ones are
  # requested
  try:
    replies = llm.ask_all(
      requests, server, judge.log, judge.max_cost, f"judging {benchmark}"
    )
  except UserError as error:
    raise UserError(f"{error}{_remedy(str(error), requests[0])}") from error
  if missing := len(requests) - len(replies):
    why = replies.problem or "the server gave no usable reply"
    if judge.max_cost is not None and not replies.problem:
      why = f"--max-cost={judge.max_cost:g} is spent"
    raise UserError(
      f"{benchmark}: {missing} of {len(requests)} judgements are missing: "
      f"{why}{_remedy(why, requests[0])}; the others are in {judge.log}; run "
      "the same command again to continue"
    )
  return replies


def _remedy(why: str, request: llm.Request) -> str:
  """The flag that fixes the server's error, if there is one."""
  if re.search(r"cut off|content is empty|thoughts", why):
    return (
      f" (a reply has {request.max_tokens} tokens; a judge that thinks first "
      "needs some thousands: --judge-max-tokens=4000)"
    )
  if "temperature" in why:
    return " (--judge-temperature=default sends none)"
  return ""


def record(scored: Scored, judge: Judge, prompt: Prompt) -> None:
  """Records the judge and its prompt in the results."""
  scored.settings |= {
    "judge_model": judge.server.model,
    "judge_prompt": prompt.version,
    "judge_prompt_hash": prompt.hash,
    "judge_temperature": judge.temperature,
  }
  scored.notes.insert(
    0, f"judged by {judge.server.model}, prompt {prompt.version}"
  )
