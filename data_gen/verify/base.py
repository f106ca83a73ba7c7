"""The interface of a verifier, which decides which objects are in a picture.

To add one: a module here with a subclass of `Verifier`, and its line in the
registry (`data_gen.verify`). Modules are imported for `--help`: whatever is
slow to import belongs inside `present`.
"""

import abc
import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from data_gen.items import image_key
from povid_jax.data.picture import Picture
from povid_jax.errors import UserError
from povid_jax.eval.benchmarks.chair_words import Vocabulary

# object -> whether it is in the picture; None: the verifier cannot say
Presence = dict[str, bool | None]


@dataclass(frozen=True)
class Asked:
  """One picture and the objects that somebody named."""

  picture: Picture
  objects: tuple[str, ...]

  @property
  def key(self) -> str:
    """The name by which annotations know the picture."""
    return image_key(self.picture.name)


@dataclass(frozen=True)
class Setting:
  """What every verifier is given.

  Attributes:
    args: the flags.
    vocabulary: the objects and the words that name them.
    logs: stem of files in which what was paid for is kept.
  """

  args: argparse.Namespace
  vocabulary: Vocabulary
  logs: Path


class Verifier(abc.ABC):
  """Knows which objects are in pictures; see the module's text."""

  name: ClassVar[str]

  def __init__(self, setting: Setting):
    """Reads the flags and files.

    Raises:
      UserError: something that it needs is missing or malformed.
    """
    self.setting = setting

  @staticmethod
  @abc.abstractmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this verifier alone."""

  @abc.abstractmethod
  def settings(self) -> dict[str, Any]:
    """All that decides its verdicts; values that JSON can hold."""

  @abc.abstractmethod
  def present(self, asked: Sequence[Asked]) -> list[Presence]:
    """Which of the named objects are in each picture.

    Raises:
      UserError: the verifier does not answer, or its answer cannot be read.
    """


@dataclass
class Agreement:
  """Several verifiers; an object counts where enough of them agree.

  It is in the picture, or not, where at least `least` verifiers say so and none
  reports the opposite; otherwise the object is uncertain.
  """

  verifiers: Sequence[Verifier]
  least: int = 1
  _known: dict[tuple[str, str], bool | None] = field(default_factory=dict)

  def __post_init__(self) -> None:
    if not 1 <= self.least <= len(self.verifiers):
      raise UserError(
        f"--agree={self.least}: want 1 to {len(self.verifiers)}, the number of "
        "verifiers"
      )

  def present(self, asked: Sequence[Asked]) -> list[Presence]:
    """As `Verifier.present`; no verifier checks an object twice."""
    new = [Asked(a.picture, self._unknown(a)) for a in asked]
    new = [a for a in new if a.objects]
    if new:
      answers = [verifier.present(new) for verifier in self.verifiers]
      for i, a in enumerate(new):
        for name in a.objects:
          votes = [each[i].get(name) for each in answers]
          self._known[a.picture.key, name] = self._decide(votes)
    known = self._known
    return [{o: known[a.picture.key, o] for o in a.objects} for a in asked]

  def _unknown(self, asked: Asked) -> tuple[str, ...]:
    key = asked.picture.key
    names = dict.fromkeys(asked.objects)
    return tuple(o for o in names if (key, o) not in self._known)

  def remember(self, key: str, presence: Mapping[str, bool | None]) -> None:
    """Takes what an earlier run has learnt of the picture of that key."""
    self._known |= {(key, name): known for name, known in presence.items()}

  def _decide(self, votes: Sequence[bool | None]) -> bool | None:
    yes, no = votes.count(True), votes.count(False)
    if yes >= self.least and not no:
      return True
    return False if no >= self.least and not yes else None
