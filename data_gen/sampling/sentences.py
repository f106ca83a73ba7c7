"""Where a sentence of an answer ends."""

import re

# a full stop after these ends no sentence
_SHORT = frozenset(
  "mr mrs ms dr st no vs prof sen gen gov capt sgt e.g i.e etc approx".split()
)
_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|\Z)|\n+")


def first(text: str) -> tuple[str, bool]:
  """The first sentence of a text, blanks taken off, and whether it is whole.

  A line ends a sentence as well: headings and lists have no full stop.
  """
  text = text.strip()
  for match in _END.finditer(text):
    head = text[: match.end()].rstrip()
    last = head.split()[-1].strip("\"'(").rstrip(".").lower()
    initial = match.group().startswith(".") and (
      last in _SHORT or (len(last) == 1 and last.isalpha() and last not in "ai")
    )
    number = match.group() == "." and re.fullmatch(r"(.*\n)?\s*\d+\.", head)
    if not initial and not number:
      return head, True
  return text, False


def split(text: str) -> list[str]:
  """All sentences of a text, in order."""
  found, rest = [], text.strip()
  while rest:
    head, _ = first(rest)
    found.append(head)
    rest = rest[len(head) :].strip()
  return found
