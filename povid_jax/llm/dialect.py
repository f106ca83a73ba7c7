"""The form of request that a server accepts, learnt from its refusals."""

import re

from povid_jax.llm.failures import Failure
from povid_jax.llm.wire import Options, Reply, limit_name

_SCHEMA_WORDS = re.compile(
  r"response[ _-]?format|json[ _-]?schema|structured[ _-]?output|guided[ _-]?"
  r"(json|decoding)|json mode",
  re.I,
)
# With these a server may also mean the schema and say something else.
_MAYBE_SCHEMA = (400, 415, 422, 501)


class Dialect:
  """The fields that later requests leave out or rename.

  Attributes:
    structured: whether replies are asked for in the form of their schema.
    limit: what the server calls the bound on a reply.
  """

  def __init__(self, options: Options):
    self.structured = not options.plain
    self.limit = limit_name(options)
    self._first = self.limit
    self._proven = False  # a reply has come in the form of its schema

  def rename_limit(self, failure: Failure, sent: str) -> bool:
    """Whether to ask again under the other name of the bound on a reply; once
    only, so that a message that names both cannot go round for ever."""
    if not failure.final or sent != self._first:
      return False
    other = other_limit_name(sent, failure.detail)
    self.limit = other or self.limit
    return other is not None

  def about_schema(self, failure: Failure) -> bool:
    """Whether the server may take the same request without its schema: it
    says so, or has refused every schema so far."""
    if failure.status not in _MAYBE_SCHEMA:
      return False
    return not self._proven or bool(_SCHEMA_WORDS.search(failure.detail))

  def plain_works(self) -> None:
    """The schema was the cause: use plain text from now on."""
    self.structured = False

  def ignores_schema(self, reply: Reply) -> bool:
    """Whether a reply to a schema is plain text, from a server that has never
    kept to one; the first such reply switches to plain text."""
    if not reply.structured:
      return False
    if reply.parsed is not None:
      self._proven = True
    if self._proven or not reply.whole or not reply.text:
      return False
    self.structured = False
    return True


def other_limit_name(name: str, detail: str) -> str | None:
  """The name to go on with, where `detail` refuses the one that was sent."""
  names = {"max_tokens", "max_completion_tokens"}
  found = set(re.findall(r"\bmax_(?:completion_)?tokens\b", detail))
  if re.search(
    r"too (large|many|high|long)|exceed|context length", detail, re.I
  ):
    return None  # it is the number, not its name
  asked_for = "max_completion_tokens" in found or re.search(
    r"unsupported|unknown|unrecognized|not permitted|extra", detail, re.I
  )
  if name not in found or not asked_for:
    return None
  return (names - {name}).pop()
