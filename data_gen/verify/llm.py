"""A language model that looks at the picture (any OpenAI-compatible server).

Each picture is one request. Replies are kept beside the output, so no picture
is paid for twice about the same objects.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_gen.verify.base import Asked, Presence, Setting, Verifier
from povid_jax import bounds
from povid_jax.errors import UserError
from povid_jax.llm import Options, Reply, Request, ask_all, image_part

VERSION = 1  # of the prompt
_PROMPT = (
  "Look closely at the picture. For each of these objects say whether it can "
  "be seen in it: {objects}.\n"
  'Answer with JSON only: {{"present": [...], "absent": [...], '
  '"uncertain": [...]}}. Use the words of the list exactly as they are. Put an '
  "object under uncertain if it is too small, hidden or ambiguous."
)
_LISTS = ("present", "absent", "uncertain")
_LIST = {"type": "array", "items": {"type": "string"}}
_SCHEMA = {
  "type": "object",
  "properties": dict.fromkeys(_LISTS, _LIST),
  "required": list(_LISTS),
  "additionalProperties": False,
}


class LlmVerifier(Verifier):
  """See the module's text."""

  name = "llm"

  def __init__(self, setting: Setting):
    super().__init__(setting)
    args = setting.args
    if not args.judge_model:
      raise UserError("--verify=llm needs --judge-model")
    self._size = args.judge_image_size
    self._options = Options(
      model=args.judge_model,
      base_url=args.judge_base_url,
      key_env=args.judge_key_env,
      concurrency=args.judge_concurrency,
    )

  @staticmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    options = Options("")
    add = parser.add_argument
    add("--judge-model", help="name of the judging model on the server")
    add("--judge-base-url", metavar="URL", help="default: OpenAI's own")
    add(
      "--judge-key-env",
      default=options.key_env,
      metavar="NAME",
      help="environment variable with the key (default %(default)s)",
    )
    add(
      "--judge-concurrency",
      type=bounds.CONCURRENCY,
      default=options.concurrency,
      metavar="N",
      help="requests in flight (default %(default)s)",
    )
    add("--judge-image-size", type=bounds.PIXELS, default=768,
        metavar="PIXELS",
        help="longest side at which pictures are sent")  # fmt: skip

  def settings(self) -> dict[str, Any]:
    options = self._options
    return {"llm": [options.model, VERSION, self._size]}

  @property
  def log(self) -> Path:
    stem = self.setting.logs
    return stem.with_name(f"{stem.name}.judge.jsonl")

  def present(self, asked: Sequence[Asked]) -> list[Presence]:
    requests = [self._request(a) for a in asked]
    replies = ask_all(requests, self._options, self.log, desc="verify")
    lost = [r.key for r in requests if r.key not in replies]
    if lost:
      raise UserError(
        f"{len(lost)} pictures got no reply from the judge; run the same "
        "command again to ask for them"
      )
    return [
      _read(replies[request.key], a.objects)
      for request, a in zip(requests, asked, strict=True)
    ]

  def _request(self, asked: Asked) -> Request:
    try:
      part, width, height = image_part(asked.picture.read(), self._size)
    except UserError as error:
      raise UserError(f"image {asked.picture.name!r}: {error}") from error
    text = _PROMPT.format(objects=", ".join(asked.objects))
    digest = hashlib.sha256(json.dumps(asked.objects).encode()).hexdigest()
    return Request(
      key=f"{asked.picture.key}|{digest[:12]}",
      messages=[
        {"role": "user", "content": [part, {"type": "text", "text": text}]}
      ],
      schema=_SCHEMA,
      any_reply=True,  # a refusal leaves the objects uncertain
      image_tokens=self._options.price.image_tokens(width, height),
    )


def _read(reply: Reply, objects: Sequence[str]) -> Presence:
  """A reply that cannot be read leaves every object uncertain."""
  parsed = reply.parsed if isinstance(reply.parsed, dict) else {}
  lists = {}
  for name in _LISTS:
    given = parsed.get(name)
    given = given if isinstance(given, list) else []
    lists[name] = {str(word).strip().lower() for word in given}
  found: Presence = {}
  for name in objects:
    word = name.lower()
    votes = [key for key, words in lists.items() if word in words]
    known = {"present": True, "absent": False}
    found[name] = known.get(votes[0]) if len(votes) == 1 else None
  return found
