"""Models that think aloud: the answer without the thoughts."""

import re

_TAGS = (
  r"(?:\w+[:_])?(?:think|thinking|thoughts?|reasoning|reflection|scratchpad"
  r"|rationale|analysis|monologue)(?:_\w+)?"
)
# Opening and closing marks of the model families that write thoughts into the
# content where no parser of the server takes them out.
_MARKS = (
  (rf"<({_TAGS})\b[^>]*>", r"</\1>"),
  (r"\[THINK\]", r"\[/THINK\]"),
  (r"◁think▷", r"◁/think▷"),
  (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
  (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command A
  (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
  (r"<unused94>", r"<unused95>"),  # MedGemma
  (r"#+ Thinking\b", r"#+ Final Response\b:?"),  # HuatuoGPT
  (r"Here is my thought process:", r"Here is my response:"),  # Granite
  (r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)\b",
   r"<\|channel\|>final<\|message\|>"),
)  # fmt: skip
_CLOSING = re.compile(
  rf"</(?:{_TAGS})>|\[/THINK\]"
  r"|◁/think▷|<\|(?:end_of_thought|END_THINKING|inner_suffix)\|>|<unused95>",
  re.I,
)
_WRAPPER = re.compile(
  r"\s*(?:<(answer|output|response|final_answer)>(?P<tag>.*)</\1>"
  r"|<\|begin_of_(solution|box)\|>(?P<mark>.*)<\|end_of_\3\|>"
  r"|<\|START_RESPONSE\|>(?P<cohere>.*?)(?:<\|END_RESPONSE\|>)?"
  r"|<\|channel\|>final<\|message\|>(?P<channel>.*))\s*",
  re.S | re.I,
)
# the stages of LLaVA-CoT
_STAGES = re.compile(
  r"\s*<summary>.*?</summary>\s*<caption>(?:.*<conclusion>(.*)</conclusion>\s*|.*)",
  re.S | re.I,
)
_END = re.compile(r"\s*<\|(?:return|end)\|>\s*\Z")  # harmony's


def strip_thoughts(text: str) -> str:
  """The text after the thoughts of a model that thinks before it answers.

  Only a block at the beginning is taken for thoughts: a tag in the middle of an
  answer is part of it. A template may have opened the block itself, then only
  its end is there. A block that never ends was cut off: no answer is left.

  >>> strip_thoughts("<think>A dog? No.</think> A cat.")
  'A cat.'
  """
  for opening, closing in _MARKS:
    block = re.compile(rf"\s*{opening}(?:.*?{closing}|.*)", re.S | re.I)
    while found := block.match(text):
      if not found.group().strip():
        break
      text = text[found.end() :].lstrip()
  if staged := _STAGES.fullmatch(text):
    return (staged[1] or "").strip()
  ends = [found.end() for found in _CLOSING.finditer(text)]
  if ends:  # opened by the template, not by the model
    text = text[ends[-1] :].lstrip()
  text = _END.sub("", text)
  while wrapped := _WRAPPER.fullmatch(text):  # GLM puts a box into <answer>
    named = wrapped.groupdict().values()
    text = next(part for part in named if part is not None).strip()
  return text
