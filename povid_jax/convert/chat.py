"""The conversation template of a checkpoint, held against its chat template.

An unknown template is not assumed to be Vicuna's: the folder's own chat
template is applied to one question and one answer, and a template of povid_jax
must give the same text.
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
    UserError: a file of the chat template is broken.
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
      named = [v for v in value if isinstance(v, dict)]
      value = next(
        (v.get("template", v) for v in named if v.get("name") == "default"),
        value,
      )
    if value is None or value == "":
      continue
    if not isinstance(value, str):
      raise UserError(
        f"{file}: chat_template is {value!r:.80}; want its text, or a list "
        "with an entry named 'default'. To pass it over, give --template"
      )
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


def _rendered(source: str, special: dict[str, str]) -> list[tuple[str, bool]]:
  """(text, whether there is a picture in it) for each form that messages have:
  parts, text with the picture's mark, text alone.

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
  forms: list[tuple[Any, Any, bool]] = [
    ([{"type": "image"}, part(_QUESTION)], [part(_ANSWER)], True),
    (_IMAGE + _QUESTION, _ANSWER, True),
    (_QUESTION, _ANSWER, False),
  ]
  out = []
  for question, answer, pictured in forms:
    messages = [
      {"role": "user", "content": question},
      {"role": "assistant", "content": answer},
    ]
    try:
      text = template.render(
        messages=messages, add_generation_prompt=False, **special
      )
    # templates raise errors of many types for a form that they do not support
    except Exception:
      continue
    if _QUESTION in text and _ANSWER in text:
      out.append((text, pictured))
  return out


def _parts(text: str, bos: str) -> tuple[str, str]:
  """(prompt, what closes the answer), without the begin-of-text token.

  White space between prompt and answer is left out: whether a space is the
  prompt's last or the answer's first is decided by the tokenizer.
  """
  prompt, _, close = text.partition(_ANSWER)
  prompt = prompt.strip()
  for mark in (bos, "<s>"):
    prompt = prompt.removeprefix(mark).strip()
  return prompt, close.strip()


# how well a template of ours gives the text of another
_NOT, _SPACES, _TURN, _WHOLE = range(4)


def _onevision(text: str) -> str:
  """A text of qwen_1_5 with the white space that transformers' own folders of
  LLaVA-OneVision have around the marks (the authors' code has line ends).
  """
  text = text.replace("<|im_start|>user\n", "<|im_start|>user ")
  return text.replace("<|im_end|>\n", "<|im_end|>")


def _fit(
  template: Template, forms: list[tuple[str, bool]], bos: str
) -> tuple[int, bool]:
  """(how well, whether with a picture).

  _WHOLE with the system's words, _TURN without (folders often leave them to
  the user), _SPACES for the published folders of `_onevision`, else _NOT.
  """
  best = (_NOT, False)
  for text, pictured in forms:
    theirs, close = _parts(text, bos)
    if close and template.end and not close.startswith(template.end):
      continue
    image = template.image if pictured else ""
    for turn, value in ((template.first, _WHOLE), (template.later, _TURN)):
      if "{text}" not in turn:
        continue
      said = turn.replace("{text}", image + _QUESTION)
      ours, _ = _parts(said + template.answer.replace("{text}", _ANSWER), bos)
      if ours == theirs:
        best = max(best, (value, pictured))
      elif _onevision(ours) == theirs:
        best = max(best, (_SPACES, pictured))
  return best


def fitting(folder: Path, default: str) -> tuple[str, str]:
  """The template that a checkpoint was tuned on.

  Args:
    folder: of the checkpoint (or of its tokenizer).
    default: what its config.json makes likely; kept where the folder has no
      chat template, or one that agrees.

  Returns:
    (name of the template, a note for the user or "").

  Raises:
    UserError: no template of povid_jax, or more than one, gives the text of the
      chat template.
  """
  found = written(folder)
  if found is None:
    return default, ""
  source, file = found
  special = _special(folder)
  try:
    forms = _rendered(source, special)
  except (jinja2.TemplateError, RecursionError) as error:
    raise UserError(
      f"{file}: the chat template cannot be read ({error}); {_ask(default)}"
    ) from error
  scores = {
    name: _fit(template, forms, special["bos_token"])
    for name, template in TEMPLATES.items()
  }
  if scores[default][0] >= _TURN:
    return default, ""
  if scores[default][0] == _SPACES:
    # transformers' own folder of LLaVA-OneVision is one of these
    return default, (
      f"{file}: the chat template differs from {default} in white space; "
      f"{default} is used, as in the authors' code"
    )
  best = max(scores.values())
  names = [name for name, score in scores.items() if score == best]
  if best[0] >= _TURN and len({TEMPLATES[name] for name in names}) == 1:
    return names[0], f"{file}: its chat template is the same as {names[0]}"
  text = forms[0][0] if forms else ""
  raise UserError(
    f"{file}: one question and one answer are {text!r:.400} in the folder's "
    "chat template, and no template of povid_jax gives the same text; "
    f"{_ask(default)}"
  )


def _ask(default: str) -> str:
  return (
    f"want --template, one of {', '.join(sorted(TEMPLATES))} (by config.json "
    f"it would be {default})"
  )
