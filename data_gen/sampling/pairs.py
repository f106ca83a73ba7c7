"""Which two candidates make a pair.

The chosen one names nothing that is not in the picture, the rejected one does.
What decides how much a pair teaches: both are the model's own, they follow the
same words for as long as they can, they are of like length, and the chosen one
does not name less of the picture: else the model learns to say little.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

Presence = Mapping[str, bool | None]


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A written answer or sentence.

  Attributes:
    number: its place among the candidates of one context.
    text: without blanks around it.
    end: "stop": the answer is over with it; "sentence": it goes on; "length":
      it was cut off, and is of no use.
  """

  number: int
  text: str
  end: str


@dataclasses.dataclass(frozen=True)
class Judged:
  """A candidate and the objects that it names, by what is known of them."""

  candidate: Candidate
  right: frozenset[str]
  wrong: frozenset[str]
  unsure: frozenset[str]

  @property
  def clean(self) -> bool:
    return not self.wrong and not self.unsure

  @property
  def words(self) -> list[str]:
    return self.candidate.text.split()


@dataclasses.dataclass(frozen=True)
class Rules:
  """What makes two candidates a pair.

  Attributes:
    most: pairs of one context.
    ratio: words of the longer one over those of the shorter one, at most.
  """

  most: int = 1
  ratio: float = 1.5


def judge(
  candidate: Candidate, objects: Iterable[str], presence: Presence
) -> Judged:
  """Sorts the objects of a candidate by what is known of them."""
  kinds: dict[bool | None, set[str]] = {True: set(), False: set(), None: set()}
  for name in objects:
    kinds[presence[name]].add(name)
  right, wrong, unsure = map(frozenset, kinds.values())
  return Judged(candidate, right, wrong, unsure)


def shared_words(a: Sequence[str], b: Sequence[str]) -> int:
  """How many words two texts have in common from their beginning."""
  count = 0
  for one, other in zip(a, b, strict=False):
    if one != other:
      break
    count += 1
  return count


def pick(judged: Sequence[Judged], rules: Rules) -> list[tuple[Judged, Judged]]:
  """(chosen, rejected) pairs of one context, the best first.

  Best is the longest common beginning; then the larger share of it, the more
  named of the picture, and the lower numbers. No rejected text comes twice.
  """
  usable = [j for j in judged if j.candidate.end != "length" and j.words]
  good = [j for j in usable if j.clean]
  bad = [j for j in usable if j.wrong and not j.unsure]
  found = []
  for chosen in good:
    for rejected in bad:
      lengths = sorted((len(chosen.words), len(rejected.words)))
      if len(chosen.right) < len(rejected.right):
        continue
      if lengths[1] > rules.ratio * lengths[0]:
        continue
      shared = shared_words(chosen.words, rejected.words)
      numbers = (chosen.candidate.number, rejected.candidate.number)
      order = (-shared, -shared / lengths[1], -len(chosen.right), numbers)
      found.append((order, chosen, rejected))
  found.sort(key=lambda row: row[0])
  pairs, used = [], set()
  for _, chosen, rejected in found:
    if len(pairs) < rules.most and rejected.candidate.text not in used:
      used.add(rejected.candidate.text)
      pairs.append((chosen, rejected))
  return pairs


def over(
  before: Sequence[Judged],
  best: Judged,
  judged: Sequence[Judged],
  named: set[str],
) -> tuple[Judged, Judged] | None:
  """The end of an answer that could be over, and the one with which it invents.

  Many inventions stand in a last sentence that should not have been written at
  all. No other sentence in its place teaches that: what does is the model's own
  answer that is over before it.

  Args:
    before: the candidates of the context before.
    best: the one of them with which the answer went on.
    judged: the candidates that follow it.
    named: all objects that were named before those.

  Returns:
    (chosen, one of `before`; rejected, one of `judged`). The chosen one is
    clean, ends the answer and names what `best` names. The rejected one
    invents, ends the answer too, and names nothing new that is in the picture.
    None where there are no such two.
  """
  ends = lambda rows: [j for j in rows if j.candidate.end == "stop" and j.words]
  good = [j for j in ends(before) if j.clean and j.right >= best.right]
  bad = [
    j for j in ends(judged) if j.wrong and not j.unsure and j.right <= named
  ]
  if not good or not bad:
    return None
  other = lambda j: j.candidate.text != best.candidate.text
  chosen = min(good, key=lambda j: (other(j), j.candidate.number))
  return chosen, min(bad, key=lambda j: j.candidate.number)


def go_on(judged: Sequence[Judged], context_objects: set[str]) -> Judged | None:
  """The sentence with which an answer goes on: of the clean ones the one that
  names most that was not named before; None where there is none."""
  good = [j for j in judged if j.clean and j.candidate.end != "length"]
  good = [j for j in good if j.words]
  if not good:
    return None
  return min(
    good,
    key=lambda j: (-len(j.right - context_objects), j.candidate.number),
  )
