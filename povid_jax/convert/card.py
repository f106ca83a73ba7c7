"""The model card of an export: its origin and its scores.

It contains only names, never a path of the machine that made it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import povid_jax
from povid_jax import files
from povid_jax.checkpoints import restore
from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig

_FIELDS = (  # of a run's config, with their names in the table
  ("objective.name", "objective"),
  ("objective.hyper", "its hyper-parameters"),
  ("noise.step", "noise step"),
  ("data.train", "data"),
  ("data.split", "split"),
  ("trainable", "trained"),
  ("lora.rank", "LoRA rank"),
  ("lora.alpha", "LoRA alpha"),
  ("lr", "learning rate"),
  ("projector_lr", "learning rate of the projector"),
  ("batch_size", "batch size"),
  ("epochs", "epochs"),
  ("steps", "steps"),
  ("seed", "seed"),
)


def _name(value: Any) -> str:
  """The last part of a path, with its step; other values as they are."""
  if isinstance(value, str):
    return Path(value).name or value
  return json.dumps(value)


def _cell(value: Any) -> str:
  return _name(value).replace("|", "\\|").replace("\n", " ")


def _get(config: Mapping[str, Any], path: str) -> Any:
  value: Any = config
  for name in path.split("."):
    value = value.get(name) if isinstance(value, dict) else None
  return value


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
  head, *body = rows
  line = lambda cells: "| " + " | ".join(cells) + " |"
  return [line(head), line(["---"] * len(head)), *map(line, body)]


def _stage(spec: str) -> tuple[list[str], str]:
  """(lines about a run, what it started from)."""
  run, _, step = spec.rpartition("@")
  config = restore.read_run(Path(run))
  rows = [("field", "value"), ("checkpoint at step", step)]
  for path, name in _FIELDS:
    value = _get(config, path)
    if value not in (None, "", {}, 0, 0.0):
      rows.append((name, _cell(value)))
  init = str(config.get("init", ""))
  title = f"### {_name(run)}, from {_name(init)}"
  return [title, "", *_table(rows), ""], restore.init_of(Path(run), config)


def _scores(spec: str) -> list[str]:
  """Scores that the run's own evaluation left for this step."""
  run, _, step = spec.rpartition("@")
  file = Path(run) / "eval" / step / "results.json"
  if not file.is_file():
    return []
  held = files.read_json(file, "it must hold the scores of an evaluation").get(
    "results"
  )
  rows = [("benchmark", "metric", "value", "95% interval", "n")]
  for row in held if isinstance(held, list) else []:
    try:
      low, high = row["ci95"]
      rows.append(
        (
          _cell(row["benchmark"]),
          _cell(row["metric"]),
          f"{row['value']:.4f}",
          f"{low:.4f} to {high:.4f}",
          str(row["n"]),
        )
      )
    except (KeyError, TypeError, ValueError) as error:
      raise UserError(
        f"{file}: every result needs benchmark, metric, value, ci95 and n, "
        f"as povid_jax.eval writes them; {row!r:.80} is none"
      ) from error
  return [*_table(rows), ""] if len(rows) > 1 else []


def text(
  spec: str,
  config: LlavaConfig,
  *,
  template: str,
  what: str,
  use: str,
  adapter: bool = False,
) -> str:
  """README.md of an export.

  Args:
    spec: the checkpoint that was exported, resolved.
    template: its conversation template.
    what: one sentence on the files.
    use: Python that opens them.
    adapter: whether it is a PEFT folder.
  """
  stages: list[str] = []
  scores = _scores(spec) if "@" in spec else []
  bottom = spec
  while not (Path(bottom) / "model.json").is_file():
    lines, init = _stage(bottom)
    stages = lines + stages
    bottom = restore.resolve(init)
  decoder, vision = config.decoder, config.vision
  library = "peft" if adapter else "transformers"
  return "\n".join(
    [
      "---",
      f"base_model: {json.dumps(_name(bottom))}",
      f"library_name: {library}",
      "pipeline_tag: image-text-to-text",
      "tags: [llava, povid_jax, preference-tuning]",
      "---",
      "",
      f"# {_name(spec.partition('@')[0])}",
      "",
      what,
      "",
      f"A vision-language model: a tower of {vision.num_layers} layers, a "
      f"decoder of {decoder.num_layers} layers of width "
      f"{decoder.hidden_size}. It was tuned on the conversation template "
      f"`{template}`; another template gives worse answers.",
      "",
      "```python",
      use,
      "```",
      "",
      "## Training",
      "",
      f"Base: {_name(bottom)}.",
      "",
      *(stages or ["No parameter of it was trained here.", ""]),
      "## Evaluation",
      "",
      *(scores or ["This step was not evaluated by the run that made it.", ""]),
      f"Written by povid_jax {povid_jax.__version__}. The licences of the "
      "base and of the data apply to these weights.",
      "",
    ]
  )


def write(folder: Path, *args: Any, **options: Any) -> None:
  """Writes `text` as README.md of a folder."""
  made = text(*args, **options)
  (folder / "README.md").write_text(made, encoding="utf-8")
