"""Flags of the benchmarks that look for objects in captions.

CHAIR, Object HalBench and the noise sweep share them.
"""

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.eval.protocol import Flags

_DEFAULT = {"synonyms": None, "singular": "inflect", "objects": "table"}


def _add(group: Any) -> None:
  group.add_argument(
    "--synonyms",
    type=Path,
    metavar="FILE",
    help="the synonyms.txt of the original CHAIR code",
  )
  group.add_argument(
    "--singular",
    choices=("inflect", "pattern", "wordnet"),
    help="pattern misses 'bus' and 'ties' as the original does; default "
    "with --synonyms, while inflect is without and with --clean-rules; wordnet "
    "(with nltk and its data) reads captions as OPERA's chair.py",
  )
  group.add_argument(
    "--objects",
    choices=("table", "annotated"),
    default=_DEFAULT["objects"],
    help="look for all objects of the table, or only for the categories of "
    "the annotations",
  )


def _read(args: argparse.Namespace) -> Mapping[str, Any]:
  """With the original's table, captions are read as the original reads them."""
  as_original = args.synonyms is not None and not args.clean_rules
  return {
    "synonyms": args.synonyms,
    "singular": args.singular or ("pattern" if as_original else "inflect"),
    "objects": args.objects,
  }


def _rules(extra: Mapping[str, Any]) -> Mapping[str, Any]:
  held = settings(extra)
  path = held.pop("synonyms")
  if path is None:
    return held
  try:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
  except OSError as error:
    raise UserError(f"--synonyms={path}: {error.strerror}") from error
  return {**held, "synonyms": digest[:16]}


def settings(extra: Mapping[str, Any]) -> dict[str, Any]:
  """synonyms (a path or None), singular and objects of `Options.extra`."""
  return {name: extra.get(name, value) for name, value in _DEFAULT.items()}


FLAGS = Flags(
  "objects in captions (chair, object_halbench, noise_sweep)",
  _add,
  _read,
  _rules,
)
