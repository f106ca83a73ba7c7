"""Models that think aloud: the answer without the thoughts."""

import re

_TAGS = "think|thinking|thought|thoughts|reasoning|reflection"
# Opening and closing marks of the model families that write thoughts into the
# content where no parser of the server takes them out.
_MARKS = (
  (rf"<({_TAGS})\b[^>]*>", r"</\1>"),
  (r"\[THINK\]", r"\[/THINK\]"),
  (r"◁think▷", r"◁/think▷"),
  (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
  (r"<\|channel\|>(?:analysis|commentary)\b",
   r"<\|channel\|>final<\|message\|>"),
)  # fmt: skip
_CLOSING = re.compile(
  rf"</(?:{_TAGS})>|\[/THINK\]"
  r"|◁/think▷|<\|end_of_thought\|>",
  re.I,
)
_WRAPPER = re.compile(
  r"\s*(?:<answer>(.*)</answer>|<\|begin_of_solution\|>(.*)"
  r"<\|end_of_solution\|>|<\|channel\|>final<\|message\|>(.*))\s*",
  re.S | re.I,
)


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
  ends = [found.end() for found in _CLOSING.finditer(text)]
  if ends:  # opened by the template, not by the model
    text = text[ends[-1] :].lstrip()
  wrapped = _WRAPPER.fullmatch(text)
  if wrapped:
    text = next(part for part in wrapped.groups() if part is not None).strip()
  return text
