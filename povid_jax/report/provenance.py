"""Exact commands, configs and settings, so that a page can be repeated."""

import json
from collections.abc import Mapping
from typing import Any

from povid_jax.report import scores
from povid_jax.report.html import escape
from povid_jax.report.load import Run, Stage
from povid_jax.report.training import duration


def section(run: Run) -> str:
  """Commands in order, then each stage's config, then eval settings."""
  parts = [_commands(run), *map(_config, run.stages), _settings(run)]
  if not any(parts):
    return ""
  return (
    '<section id="how"><h2>How this was made</h2>'
    '<p class="lead">Each command reproduces its part.</p>'
    f"{''.join(parts)}</section>"
  )


def _commands(run: Run) -> str:
  if not run.commands:
    return ""
  items = []
  for command in run.commands:
    took = (
      f' <span class="soft">{duration(command.seconds)}</span>'
      if command.seconds is not None
      else ""
    )
    items.append(
      f"<li><p>{escape(command.title or 'command')}{took}</p>"
      f"<pre><code>{escape(_wrapped(command.command))}</code></pre></li>"
    )
  return f'<ol class="commands">{"".join(items)}</ol>'


def _wrapped(command: str) -> str:
  """A long command with a flag a line, still one command to a shell."""
  if len(command) <= 76 or "'" in command or '"' in command:
    return command
  return command.replace(" --", " \\\n  --")


def _config(stage: Stage) -> str:
  if stage.config is None:
    return ""
  changed = {
    name: value
    for name, value in flat(stage.config).items()
    if name not in (known := _defaults()) or known[name] != value
  }
  rows = "".join(
    f"<tr><td>{escape(name)}</td><td>{escape(json.dumps(value))}</td></tr>"
    for name, value in changed.items()
  )
  whole = escape(json.dumps(stage.config, indent=2, sort_keys=True))
  return (
    f"<details><summary>Config of {escape(scores.stage_name(stage.name))}"
    f"<small>{len(changed)} fields differ from the defaults</small></summary>"
    f'<div class="scroll"><table class="fields">{rows}</table></div>'
    f"<details><summary>All fields</summary><pre>{whole}</pre></details>"
    "</details>"
  )


def _defaults() -> dict[str, Any]:
  from povid_jax import config

  return flat(config.default().to_dict())


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{"data": {"train": "x"}} to {"data.train": "x"}."""
  found: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping) and value:
      found |= flat(value, f"{prefix}{name}.")
    else:
      found[prefix + name] = value
  return found


def _settings(run: Run) -> str:
  """Decoding, prompts, hashes and versions, one block for each that differs."""
  blocks: dict[str, list[str]] = {}
  for evaluation in run.evaluations:
    if evaluation.settings:
      text = json.dumps(evaluation.settings, indent=2, sort_keys=True)
      name = (
        f"{scores.stage_name(evaluation.stage)}, "
        f"{scores.split_name(evaluation.split)}"
      )
      blocks.setdefault(text, []).append(name)
  return "".join(
    f"<details><summary>Evaluation settings<small>"
    f"{escape('; '.join(names))}</small></summary>"
    f"<pre>{escape(text)}</pre></details>"
    for text, names in blocks.items()
  )
