"""Replaces the system prompt of a template by that of a sample."""

import dataclasses
import re

from povid_jax.data.text import Template, find_template
from povid_jax.errors import UserError

# Where a first question's template holds the system's words.
_PLACES = (
  re.compile(r"(?<=<<SYS>>\n)(.*?)(?=\n<</SYS>>)", re.S),
  re.compile(r"(?<=<\|im_start\|>system\n)(.*?)(?=\n?<\|im_end\|>)", re.S),
  re.compile(r"(?<=system<\|end_header_id\|>\n\n)(.*?)(?=<\|eot_id\|>)", re.S),
  re.compile(r"^(?=\S)(.*?)(?= USER: \{text\})", re.S),
)


def has_place(template: str | Template) -> bool:
  """Whether a template says something for the system."""
  if isinstance(template, str):
    template = find_template(template)
  return any(place.search(template.first) for place in _PLACES)


def with_system(template: str | Template, words: str) -> Template:
  """The template with other words for the system.

  A template without a place for them stays as it is.

  Raises:
    UserError: the words hold a brace or a mark of a special token, which the
      template would read as its own.
  """
  if isinstance(template, str):
    template = find_template(template)
  if not has_place(template):
    return template
  if re.search(r"[{}]|<s>|</s>|<\|", words):
    raise UserError(
      "the system turn contains a brace or the text of a special token; want "
      "plain words"
    )
  first = template.first
  for place in _PLACES:
    if place.search(first):
      first = place.sub(lambda _: words.strip(), first, count=1)
      break
  return dataclasses.replace(template, first=first)
