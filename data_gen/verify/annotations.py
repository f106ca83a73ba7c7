"""Verifies objects by COCO's annotations, with CHAIR's rule.

An object is there if an instance of it is annotated or a reference caption
names it; it is not there if it is one of the categories and neither is so.
Objects that are not a category are uncertain.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_gen.items import load_annotations
from data_gen.verify.base import Asked, Presence, Setting, Verifier
from povid_jax.errors import UserError


class AnnotationsVerifier(Verifier):
  """See the module's text."""

  name = "annotations"

  def __init__(self, setting: Setting):
    super().__init__(setting)
    self._files = setting.args.annotations
    if not self._files:
      raise UserError(
        "--verify=annotations needs --annotations instances_*.json (and "
        "captions_*.json)"
      )
    known = load_annotations(self._files)
    names = setting.vocabulary.names
    self._categories = {
      names[name] for name, _ in known.categories if name in names
    }
    if not self._categories:
      raise UserError(
        f"{self._files[0]}: the vocabulary has none of its categories; give "
        "COCO's instances_*.json with --annotations"
      )
    self._objects = {
      image: {names[o] for o in objects if o in names}
      for image, objects in known.objects.items()
    }
    self._captions = known.captions

  @staticmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    del parser  # --annotations is every injector's

  def settings(self) -> dict[str, Any]:
    digest = lambda path: hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return {"annotations": sorted(digest(path)[:16] for path in self._files)}

  def present(self, asked: Sequence[Asked]) -> list[Presence]:
    return [self._one(each) for each in asked]

  def _one(self, asked: Asked) -> Presence:
    truth = self._objects.get(asked.key)
    if truth is None:  # this picture is not annotated
      return dict.fromkeys(asked.objects)
    said = self._captions.get(asked.key, ())
    mentions = self.setting.vocabulary.mentions
    truth = truth | {m.object for caption in said for m in mentions(caption)}
    return {
      name: True
      if name in truth
      else (False if name in self._categories else None)
      for name in asked.objects
    }
