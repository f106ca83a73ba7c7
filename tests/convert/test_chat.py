"""Which template a folder's own chat template stands for."""

import json
from pathlib import Path

import pytest

from povid_jax.convert import chat
from povid_jax.errors import UserError

# The turns that transformers' llava-1.5 folders have (no system's words).
LLAVA_HF = (
  "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
  "{% for part in message['content'] | selectattr('type', 'equalto', 'image')"
  " %}{{ '<image>\n' }}{% endfor %}"
  "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
  "{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}"
  "{% endfor %}{% endfor %}"
)
MISTRAL = (
  "{{ bos_token }}{% for m in messages %}"
  "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
  "{{ raise_exception('roles must alternate') }}{% endif %}"
  "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
  "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
  "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
  "<|im_end|>\n{% endfor %}"
)
QWEN = (
  "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system'"
  " %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
  "{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
  "{{ '<|im_end|>\n' }}{% endfor %}"
)
LLAMA_3 = (
  "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>"
  "\n\n{{ m['content'] }}<|eot_id|>{% endfor %}"
)
ZEPHYR = (
  "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
)


def _folder(folder: Path, template: object, name: str) -> Path:
  folder.mkdir(exist_ok=True)
  if name.endswith(".jinja"):
    (folder / name).write_text(str(template))
  else:
    (folder / name).write_text(json.dumps({"chat_template": template}))
  settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
  if name == "tokenizer_config.json":
    settings["chat_template"] = template
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  return folder


@pytest.mark.parametrize(
  ("template", "name", "default", "want"),
  [
    (LLAVA_HF, "chat_template.json", "vicuna_v1", "vicuna_v1"),
    (MISTRAL, "tokenizer_config.json", "mistral_instruct", "mistral_instruct"),
    # what the folder says wins over what its sizes make likely
    (MISTRAL, "tokenizer_config.json", "vicuna_v1", "mistral_instruct"),
    (CHATML, "chat_template.jinja", "vicuna_v1", "qwen_1_5"),
    (QWEN, "tokenizer_config.json", "vicuna_v1", "qwen_1_5"),
    (LLAMA_3, "tokenizer_config.json", "vicuna_v1", "llava_llama_3"),
    ([{"name": "tool", "template": "x"},
      {"name": "default", "template": MISTRAL}],
     "tokenizer_config.json", "vicuna_v1", "mistral_instruct"),
  ],
)  # fmt: skip
def test_the_template_that_agrees(
  tmp_path: Path, template: object, name: str, default: str, want: str
):
  got, note = chat.fitting(_folder(tmp_path, template, name), default)
  assert got == want
  assert bool(note) == (want != default)


@pytest.mark.parametrize(
  "template",
  [
    ZEPHYR,
    "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}",
    "{{ raise_exception('only tools') }}",
    "{% for m in messages %}{{ m.content",
    # other words of the system in front of Vicuna's turns
    "You are Zed. " + LLAVA_HF,
  ],
)
def test_one_that_no_template_gives_is_asked_for(tmp_path: Path, template: str):
  folder = _folder(tmp_path, template, "chat_template.jinja")
  with pytest.raises(UserError, match="want --template, one of .*vicuna_v1"):
    chat.fitting(folder, "vicuna_v1")


def test_a_folder_without_one(tmp_path: Path):
  assert chat.fitting(tmp_path, "vicuna_v1") == ("vicuna_v1", "")


# transformers' folders of LLaVA-OneVision: a space, and no line end between
# the turns, where the authors' code has line ends.
ONEVISION = (
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
  "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}"
  "{{ '<image>' }}{% endfor %}"
  "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}"
  "{{ '\n' + part['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
)


def test_the_white_space_of_published_folders(tmp_path: Path):
  folder = _folder(tmp_path, ONEVISION, "chat_template.json")
  name, note = chat.fitting(folder, "qwen_1_5")
  assert name == "qwen_1_5" and "differs from qwen_1_5 in white space" in note


@pytest.mark.parametrize(
  ("template", "default"),
  [
    (LLAVA_HF.replace("+ ': '", "+ ':  '"), "vicuna_v1"),
    (LLAVA_HF.replace("+ ': '", "+ ':'"), "vicuna_v1"),
    (MISTRAL.replace("'[INST] '", "'[INST]'"), "mistral_instruct"),
    (CHATML.replace("}}\n{{", "}} {{"), "qwen_1_5"),
    (CHATML.replace("<|im_start|>", " <|im_start|>"), "qwen_1_5"),
    (LLAMA_3.replace("\n\n", "\n"), "llava_llama_3"),
    (ONEVISION.replace("<image>", "<image> "), "qwen_1_5"),
  ],
)
def test_one_blank_is_another_text(tmp_path: Path, template: str, default: str):
  assert "{%" in template
  folder = _folder(tmp_path, template, "chat_template.jinja")
  with pytest.raises(UserError, match="want --template, one of"):
    chat.fitting(folder, default)


@pytest.mark.parametrize(
  "value",
  [7, {"default": MISTRAL}, [{"name": "rag", "template": MISTRAL}],
   [{"name": ["default"], "template": "x"}], [{"name": "default"}, 1],
   [{"name": "default", "template": [MISTRAL]}]],
)  # fmt: skip
def test_a_chat_template_of_another_form(tmp_path: Path, value: object):
  folder = _folder(tmp_path, value, "tokenizer_config.json")
  with pytest.raises(UserError, match="chat_template is .*give --template"):
    chat.fitting(folder, "vicuna_v1")
