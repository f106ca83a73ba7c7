"""Conversation templates by name: the text around each turn."""

import dataclasses

from povid_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Template:
  """The text of a conversation; {text} stands for a turn with its images in
  front, {image} for the images alone.

  Markers of special tokens written in a template (<s>, </s>, <|im_start|> and
  whatever else stands in <| |>) become those tokens where the tokenizer has
  them; the same characters in what was said stay text.
  """

  first: str  # first question, with the system's words
  later: str  # any later question
  answer: str
  end: str  # closes an answer
  # LLaVA-NeXT's code: several images of a turn stay where they are written, a
  # single one goes to the front unless it is there. False: all to the front.
  in_place: bool = False
  trim: bool = False  # white space around a turn is removed
  # tokens around an image, which then needs no newline behind it
  image_start: str = ""
  image_end: str = ""
  image: str = "<image>\n"  # an image in the chat template of transformers


_LLAVA_SYSTEM = (
  "You are a helpful language and vision assistant. You are able to "
  "understand the visual content that the user provides, and assist the user "
  "with a variety of tasks using natural language."
)
_VICUNA_SYSTEM = (
  "A chat between a curious user and an artificial intelligence assistant. "
  "The assistant gives helpful, detailed, and polite answers to the user's "
  "questions."
)
_CHATML_TURN = "<|im_start|>user\n{text}<|im_end|><|im_start|>assistant\n"
_CHATML = Template(
  first="<|im_start|>system\nAnswer the questions.<|im_end|>" + _CHATML_TURN,
  later=_CHATML_TURN,
  answer="{text}",
  end="<|im_end|>",
)
_QWEN_TURN = "<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
_LLAMA_3_SAYS = "<|start_header_id|>{}<|end_header_id|>\n\n"
_LLAMA_3_TURN = (
  _LLAMA_3_SAYS.format("user")
  + "{text}<|eot_id|>"
  + _LLAMA_3_SAYS.format("assistant")
)

TEMPLATES: dict[str, Template] = {
  "vicuna_v1": Template(
    first=_VICUNA_SYSTEM + " USER: {text} ASSISTANT:",
    later="USER: {text} ASSISTANT:",
    answer=" {text}",
    end="</s>",
  ),
  "llava_llama_2": Template(
    first=f"[INST] <<SYS>>\n{_LLAVA_SYSTEM}\n<</SYS>>\n\n{{text}} [/INST]",
    later="<s>[INST] {text} [/INST]",
    answer=" {text} ",
    end="</s>",
  ),
  "mistral_instruct": Template(
    first="[INST] {text} [/INST]",
    later="[INST] {text} [/INST]",
    answer=" {text} ",
    end="</s>",
  ),
  "chatml": _CHATML,
  # LLaVA-1.6-34B's
  "chatml_direct": _CHATML,
  # LLaVA-OneVision's, and LLaVA-NeXT's on Qwen
  "qwen_1_5": Template(
    first="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    + _QWEN_TURN,
    later="\n" + _QWEN_TURN,
    answer="{text}",
    end="<|im_end|>",
    in_place=True,
  ),
  # Qwen2-VL's and Qwen2.5-VL's
  "qwen2_vl": Template(
    first="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    + _QWEN_TURN,
    later="\n" + _QWEN_TURN,
    answer="{text}",
    end="<|im_end|>",
    in_place=True,
    image_start="<|vision_start|>",
    image_end="<|vision_end|>",
    image="<|vision_start|><|image_pad|><|vision_end|>",
  ),
  # LLaVA-NeXT's on Llama 3
  "llava_llama_3": Template(
    first=_LLAMA_3_SAYS.format("system")
    + f"{_LLAVA_SYSTEM}<|eot_id|>"
    + _LLAMA_3_TURN,
    later=_LLAMA_3_TURN,
    answer="{text}",
    end="<|eot_id|>",
    in_place=True,
    trim=True,
  ),
  # Projector pre-training: the picture, then its caption; no question.
  "plain": Template(first="{image}", later="", answer="{text}\n", end=""),
  # The toy world's: no system's words, a context short enough for a laptop.
  "short": Template(
    first="USER: {text} ASSISTANT:",
    later="USER: {text} ASSISTANT:",
    answer=" {text}",
    end="</s>",
  ),
}


def find_template(name: str) -> Template:
  """The template of that name; UserError lists the known names."""
  if name not in TEMPLATES:
    known = ", ".join(sorted(TEMPLATES))
    raise UserError(f"template {name!r}: want one of {known}")
  return TEMPLATES[name]
