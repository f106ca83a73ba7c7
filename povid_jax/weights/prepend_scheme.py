"""Where the Metaspace of a tokenizer.json puts a space of its own."""

from collections.abc import Collection
from typing import Any


def change(
  part: dict[str, Any] | None, schemes: Collection[str], to: str
) -> bool:
  """Sets the schemes that are among these, in a pre-tokenizer and its parts.

  Args:
    part: `pre_tokenizer` of the file; changed in place.
    schemes: some of "never", "first" (at the very start of a text) and
      "always" (behind every special token too).
    to: the scheme in their stead.

  Returns:
    Whether there was one.
  """
  if not part:
    return False
  if part.get("prepend_scheme") in schemes:
    part["prepend_scheme"] = to
    return True
  inner = part.get("pretokenizers") or ()
  return any([change(each, schemes, to) for each in inner])
