"""A conversation in the layouts that LLaVA-NeXT trains on, written plainly.

The marks are those of its templates qwen_1_5 and llava_llama_3
(llava/conversation.py of LLaVA-VL/LLaVA-NeXT): each message stands between its
marks, <image> is one token, and the text between two marks is tokenised alone.
Written from that layout, not from the code of its trainer; labels are left out.
"""

import re
from collections.abc import Callable, Sequence

IMAGE = -200
Encode = Callable[[str], list[int]]

_SYSTEM = {
  "qwen_1_5": "You are a helpful assistant.",
  "llava_llama_3": (
    "You are a helpful language and vision assistant. You are able to "
    "understand the visual content that the user provides, and assist the "
    "user with a variety of tasks using natural language."
  ),
}


def multimodal(said: str) -> str:
  """A single image that does not come first is put there."""
  if said.count("<image>") == 1 and not said.startswith("<image>"):
    said = said.replace("<image>", "").strip()
    said = f"<image>\n{said}".strip()
  return said


def _qwen(role: str, said: str) -> str:
  return f"<|im_start|>{role}\n{said}<|im_end|>\n"


def _llama3(role: str, said: str) -> str:
  # the tokenizer's own chat template trims
  head = f"<|start_header_id|>{role}<|end_header_id|>\n\n"
  return f"{head}{said.strip()}<|eot_id|>"


def tokens(
  template: str,
  turns: Sequence[str],
  encode: Encode,
  special: dict[str, int],
  bos: int | None,
) -> list[int]:
  """Ids of a whole conversation, one IMAGE for each picture.

  Args:
    encode: text without any mark to ids.
    special: marks to ids.
  """
  write = {"qwen_1_5": _qwen, "llava_llama_3": _llama3}[template]
  roles = ("user", "assistant")
  messages = [write("system", _SYSTEM[template])]
  for i, turn in enumerate(turns):
    said = multimodal(turn) if i % 2 == 0 else turn
    messages.append(write(roles[i % 2], said))
  known = {**special, "<image>": IMAGE}
  pattern = "(" + "|".join(map(re.escape, known)) + ")"
  out = [] if bos is None else [bos]
  for message in messages:
    for piece in re.split(pattern, message):
      if piece in known:
        out.append(known[piece])
      elif piece:
        out += encode(piece)
  return out
