"""The conversation template of a checkpoint, held against its chat template.

Unknown does not mean Vicuna: a folder that comes with a chat template of its
own is asked what it makes of one question and one answer, and the template of
ours must give that text.
"""

import json
import re
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from povid_jax import files
from povid_jax.data.text import TEMPLATES, Template
from povid_jax.errors import UserError

_QUESTION, _ANSWER = "What is 1 and 1?", "It is 2."
_IMAGE = "<image>\n"
# transformers' own tag around answers, for their masks; it prints nothing
_TAG = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


def written(folder: Path) -> tuple[str, Path] | None:
  """The chat template of a folder and the file it is in, None for none.

  Raises:
    UserError: a file of it is broken.
  """
  jinja = folder / "chat_template.jinja"
  if jinja.is_file():
    try:
      return jinja.read_text(encoding="utf-8"), jinja
    except (OSError, ValueError) as error:
      raise UserError(f"{jinja} cannot be read: {error}") from error
  for name in (
    "chat_template.json",
    "processor_config.json",
    "tokenizer_config.json",
  ):
    if not (file := folder / name).is_file():
      continue
    value = files.read_json(file, "want an object").get("chat_template")
    if isinstance(value, list):  # several by name
      named = {
        v["name"]: v for v in value if isinstance(v, dict) and "name" in v
      }
      value = named.get("default", {}).get("template")
    if isinstance(value, str) and value.strip():
      return value, file
  return None


def _special(folder: Path) -> dict[str, str]:
  """bos_token and eos_token of the folder, "" where it names none."""
  found = {"bos_token": "", "eos_token": ""}
  file = folder / "tokenizer_config.json"
  if file.is_file():
    settings = files.read_json(file, "want an object")
    for name in found:
      token = settings.get(name)
      token = token.get("content") if isinstance(token, dict) else token
      found[name] = token if isinstance(token, str) else ""
  return found


def _raise(message: str) -> None:
  raise jinja2.TemplateError(message)


def _rendered(source: str, special: dict[str, str]) -> list[tuple[str, str]]:
  """(text with the answer, text in front of the question) for the forms that
  messages have: parts, text with the picture's mark, text alone.

  Raises:
    jinja2.TemplateError: the template cannot be read.
  """
  environment = ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=["jinja2.ext.loopcontrols"],
  )
  environment.filters["tojson"] = lambda x, **_: json.dumps(x)
  environment.globals["raise_exception"] = _raise
  environment.globals["strftime_now"] = lambda form: ""
  template = environment.from_string(_TAG.sub("", source))
  part = lambda text: {"type": "text", "text": text}
  forms: list[tuple[Any, Any, str]] = [
    ([{"type": "image"}, part(_QUESTION)], [part(_ANSWER)], _IMAGE),
    (_IMAGE + _QUESTION, _ANSWER, _IMAGE),
    (_QUESTION, _ANSWER, ""),
  ]
  out = []
  for question, answer, image in forms:
    messages = [
      {"role": "user", "content": question},
      {"role": "assistant", "content": answer},
    ]
    try:
      text = template.render(
        messages=messages, add_generation_prompt=False, **special
      )
    except Exception:  # templates raise what they like for a form not theirs
      continue
    if _QUESTION in text and _ANSWER in text:
      out.append((text, image))
  return out


def _parts(text: str, marks: tuple[str, ...]) -> tuple[str, str]:
  """(prompt and answer, what closes it), without the begin-of-text token.

  White space between prompt and answer is left out: whether a space is the
  prompt's last or the answer's first is decided by the tokenizer.
  """
  prompt, _, close = text.partition(_ANSWER)
  prompt = prompt.strip()
  for mark in marks:
    prompt = prompt.removeprefix(mark).strip() if mark else prompt
  return prompt, close.strip()


def _fit(template: Template, forms: list[tuple[str, str]], bos: str) -> int:
  """How well a template gives one of the texts: 2 with its system's words, 1
  without (folders often leave them to the user), 0 not at all."""
  best = 0
  for text, image in forms:
    theirs, close = _parts(text, (bos, "<s>"))
    for turn, value in ((template.first, 2), (template.later, 1)):
      if "{text}" not in turn:
        continue
      said = turn.replace("{image}", "").replace("{text}", image + _QUESTION)
      said += template.answer.replace("{text}", _ANSWER)
      ours, _ = _parts(said, (bos, "<s>"))
      closes = not close or not template.end or close.startswith(template.end)
      if ours == theirs and closes:
        best = max(best, value)
  return best


def fitting(folder: Path, default: str) -> str:
  """Name of the template that a checkpoint was tuned on.

  Args:
    folder: of the checkpoint (or of its tokenizer).
    default: what its config.json makes likely; kept where the folder has no
      chat template, or one that agrees.

  Raises:
    UserError: a chat template that no template of ours gives, or more than
      one does.
  """
  found = written(folder)
  if found is None:
    return default
  source, file = found
  special = _special(folder)
  try:
    forms = _rendered(source, special)
  except jinja2.TemplateError as error:
    raise UserError(
      f"{file}: the chat template cannot be read ({error}); {_ask(default)}"
    ) from error
  fit = lambda template: _fit(template, forms, special["bos_token"])
  if fit(TEMPLATES[default]):
    return default
  scores = {name: fit(template) for name, template in TEMPLATES.items()}
  best = [
    name for name, score in scores.items() if score == max(scores.values())
  ]
  different = {TEMPLATES[name] for name in best}
  if max(scores.values()) and len(different) == 1:
    return best[0]
  text = forms[0][0] if forms else ""
  raise UserError(
    f"{file}: one question and one answer are {text!r:.400} by the folder's "
    f"chat template, which no template here gives; {_ask(default)}"
  )


def _ask(default: str) -> str:
  return (
    f"want --template, one of {', '.join(sorted(TEMPLATES))} (by config.json "
    f"it would be {default})"
  )
