"""Verifiers by name; a verifier decides which objects are in a picture."""

import argparse
import importlib
from collections.abc import Iterator

from data_gen.verify.base import Agreement, Setting, Verifier
from povid_jax import bounds
from povid_jax.errors import UserError

# name on the command line -> module and class
_PLACES = {
  "annotations": "data_gen.verify.annotations:AnnotationsVerifier",
  "detections": "data_gen.verify.detections:DetectionsVerifier",
  "command": "data_gen.verify.command:CommandVerifier",
  "llm": "data_gen.verify.llm:LlmVerifier",
}


def _find(name: str) -> type[Verifier]:
  if name not in _PLACES:
    raise UserError(f"--verify: no {name!r}; there are {', '.join(_PLACES)}")
  module, _, kind = _PLACES[name].partition(":")
  return getattr(importlib.import_module(module), kind)


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds --verify, --agree and the flags of every verifier."""
  group = parser.add_argument_group("verifiers")
  group.add_argument(
    "--verify",
    default="annotations",
    metavar="NAME,...",
    help="verifiers of the objects in the pictures, one or several of "
    f"{', '.join(_PLACES)} (default %(default)s)",
  )
  group.add_argument(
    "--agree",
    type=bounds.whole(1, 100),
    metavar="N",
    help="an object counts as present or absent if so many verifiers agree "
    "and none reports the opposite (default: all of them)",
  )
  for kind in _kinds():
    kind.add_flags(parser)


def _kinds() -> Iterator[type[Verifier]]:
  yield from map(_find, _PLACES)


def build(setting: Setting) -> Agreement:
  """The verifiers of --verify.

  Raises:
    UserError: see `Verifier`.
  """
  names = [n.strip() for n in setting.args.verify.split(",") if n.strip()]
  if not names:
    raise UserError(
      f"--verify is empty; want one or several of {', '.join(_PLACES)}"
    )
  verifiers = [_find(name)(setting) for name in dict.fromkeys(names)]
  least = setting.args.agree
  return Agreement(verifiers, len(verifiers) if least is None else least)
