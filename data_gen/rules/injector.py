"""Chooses, by seed, which edits an answer gets."""

import hashlib
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from data_gen.rules import replies
from data_gen.rules.attributes import attributes
from data_gen.rules.changes import (
  Change,
  Proposal,
  apply,
  disjoint,
  pick,
  swap,
)
from data_gen.rules.coherence import concludes
from data_gen.rules.corpus import FINAL, LONGEST, Corpus, words
from data_gen.rules.english import plural
from data_gen.rules.objects import insertions, replacements
from data_gen.rules.relations import relations
from data_gen.rules.scene import Scene, scene
from povid_jax.errors import UserError

VERSION = 4
KINDS = ("replace", "insert", "attribute", "relation")


@dataclass(frozen=True)
class Settings:
  """What the rules may do.

  Attributes:
    edits: kind -> probability of one such edit in each `words_per_edit` words
      of an answer. Replacements outweigh insertions: pairs that mostly insert
      teach a model to say less instead of to look closer.
    words_per_edit: longer answers get more edits.
    insert_above: only objects at least this likely beside those that are
      there are inserted; rare ones teach a model to say less.
    within: "group" | "any", see `objects.replacements`.
    closed: only words that the corpus uses, for a small tokenizer.
    seed: the same seed gives the same pairs.
  """

  edits: Mapping[str, float] = field(
    default_factory=lambda: {
      "replace": 0.7,
      "insert": 0.1,
      "attribute": 0.25,
      "relation": 0.3,
    }
  )
  words_per_edit: int = 40
  insert_above: float = 0.0
  within: str = "group"
  closed: bool = False
  seed: int = 0


def parse_edits(text: str) -> dict[str, float]:
  """Reads "replace=0.7,insert=0.1"; kinds left out get probability 0.

  Raises:
    UserError: an unknown kind, or a value outside 0..1.
  """
  edits: dict[str, float] = dict.fromkeys(KINDS, 0.0)
  for part in filter(None, text.split(",")):
    name, _, value = part.strip().partition("=")
    try:
      edits[name] = edits[name] * 0 + float(value)
    except (KeyError, ValueError):
      raise UserError(
        f"--edits: cannot read {part.strip()!r}; expected kind=probability "
        f"with kind one of {', '.join(KINDS)}"
      ) from None
    if not 0 <= edits[name] <= 1:
      raise UserError(f"--edits: {part.strip()}: expected a value from 0 to 1")
  if not any(edits.values()):
    raise UserError("--edits: every probability is 0; nothing would change")
  return edits


@dataclass(frozen=True)
class Injected:
  """A wrong answer and what was changed: [{span, original, kind}]."""

  text: str
  edits: list[dict]


def generator(settings: Settings, *parts: object) -> random.Random:
  """Random numbers that depend on the seed and the parts alone, not on the
  order of the items or the number of workers."""
  key = "\0".join(map(str, (settings.seed, *parts)))
  digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8)
  return random.Random(int.from_bytes(digest.digest(), "little"))


def inject(
  corpus: Corpus,
  settings: Settings,
  rng: random.Random,
  image: str,
  question: str,
  answer: str,
  reasons: bool = False,
) -> Injected | None:
  """A plausible wrong version of one answer; None: nothing to change, or an
  answer of more than `LONGEST` characters.

  Args:
    image: name under which the corpus knows the image's objects.
    question: the human turn before the answer.
    answer: the correct answer.
    reasons: it argues for a conclusion; an edit that leaves that right is none.
  """
  if len(answer) > LONGEST:
    return None
  opposite = replies.wrong_yes_no(question, answer)
  if opposite:
    return _whole(answer, opposite)
  found = scene(corpus, image, question, answer)
  if len(answer.split()) <= replies.SHORT:
    other = replies.wrong_short(corpus, found, answer, rng)
    if other:
      return _whole(answer, other)
  final = FINAL.search(answer)
  taken = _final_changes(corpus, found, final, rng) if final else []
  end = final.start() if final else len(answer) + 1
  if final and not taken:
    taken = _inside_final(corpus, settings, rng, found, final)
    if not taken:
      return None  # whatever else is changed, the answer stays right
  changes = _plan(corpus, settings, rng, found, end, taken)
  if not changes or (reasons and not final and not concludes(answer, changes)):
    return None
  return Injected(*apply(answer, changes))


def _whole(old: str, new: str) -> Injected:
  """An answer that is exchanged as a whole."""
  edit = {"span": new.strip(), "original": old.strip(), "kind": "answer"}
  return Injected(new, [edit])


def _final_changes(
  corpus: Corpus, found: Scene, final: re.Match, rng: random.Random
) -> list[Change]:
  """A wrong final answer; the reasoning is made to lead to it."""
  old = final.group("answer")
  opposite = replies.wrong_yes_no(found.question, old)
  new = opposite or replies.wrong_short(corpus, found, old, rng)
  if not new:
    return []
  reasoning = found.text[: final.start()]
  if opposite:
    yes = old.lower().startswith("yes")
    claim = replies.wrong_conclusion(reasoning, yes)
    reasons = [Change(*claim, "reasoning")] if claim else []
  else:
    reasons = [
      swap(*match.span(), _bare(new), "reasoning", reasoning)
      for match in re.finditer(rf"\b{re.escape(_bare(old))}\b", reasoning)
    ]
  return [Change(*final.span("answer"), new, "answer"), *reasons]


def _inside_final(
  corpus: Corpus,
  settings: Settings,
  rng: random.Random,
  found: Scene,
  final: re.Match,
) -> list[Change]:
  """An edit within a final answer that is a sentence, not a word; an object is
  exchanged in the reasoning too."""
  pools = _Pools(corpus, settings, rng, found, len(found.text) + 1)
  start = final.start("answer")
  for kind in KINDS:
    if kind == "insert" or not settings.edits[kind]:
      continue
    inside = [p for p in pools[kind] if any(c.start >= start for c in p)]
    if inside:
      chosen = rng.choice(inside)
      return [
        replace(c, kind="answer" if c.start >= start else c.kind)
        for c in chosen
      ]
  return []


def _bare(answer: str) -> str:
  return re.sub(r"^(an?|the)\s+", "", answer.strip(" ."), flags=re.I)


def _plan(
  corpus: Corpus,
  settings: Settings,
  rng: random.Random,
  found: Scene,
  end: int,
  taken: list[Change],
) -> list[Change]:
  """Draws kinds per stretch of words, then one place before `end` for each."""
  pools = _Pools(corpus, settings, rng, found, end)
  stretches = max(1, round(len(found.text.split()) / settings.words_per_edit))
  for _ in range(stretches):
    for kind in KINDS:
      if rng.random() < settings.edits[kind]:
        taken += pools.take(kind, taken)
  return taken or _at_least_one(pools, settings, rng)


@dataclass
class _Pools:
  """The possible edits of one answer by kind, made when first asked for."""

  corpus: Corpus
  settings: Settings
  rng: random.Random
  found: Scene
  end: int

  def __post_init__(self) -> None:
    self._made: dict[str, list[Proposal]] = {}

  def __getitem__(self, kind: str) -> list[Proposal]:
    if kind not in self._made:
      found = [
        proposal
        for proposal in self._make(kind)
        if all(change.end < self.end for change in proposal)
        and _allowed(self.corpus, self.settings, proposal)
      ]
      # "The red couch" is not black in the answer to a question about the red
      # couch.
      self._made[kind] = [p for p in found if not self._asked(p)]
    return self._made[kind]

  def _asked(self, proposal: Proposal) -> bool:
    first = proposal[0]
    old = self.found.text[first.start : first.end].lower()
    question = self.found.question.lower()
    return bool(old) and bool(re.search(rf"\b{re.escape(old)}\b", question))

  def _make(self, kind: str) -> Iterable[Proposal]:
    if kind == "replace":
      within = self.settings.within
      return replacements(self.corpus, self.found, self.rng, within)
    if kind == "insert":
      above = self.settings.insert_above
      return insertions(self.corpus, self.found, self.rng, above)
    if kind == "attribute":
      return attributes(self.corpus, self.found, self.rng)
    return relations(self.found, self.rng)

  def take(self, kind: str, taken: list[Change]) -> Proposal:
    """One proposal of a kind that fits the edits already chosen; () if there is
    none.
    """
    # Two things do not become the same one: no "buses, a bus and a bicycle".
    used = {change.new.lower() for change in taken}
    used |= {plural(new) for new in used}
    free = [
      proposal
      for proposal in self[kind]
      if disjoint(proposal, taken)
      and not used & {proposal[0].new.lower(), plural(proposal[0].new.lower())}
    ]
    return self.rng.choice(free) if free else ()


def _allowed(corpus: Corpus, settings: Settings, proposal: Proposal) -> bool:
  return not settings.closed or all(
    words(change.new) <= corpus.words for change in proposal
  )


def _at_least_one(
  pools: _Pools, settings: Settings, rng: random.Random
) -> list[Change]:
  """One edit of any allowed kind that is possible."""
  made = {kind: pools[kind] for kind in KINDS if settings.edits[kind]}
  kinds = [kind for kind in KINDS if made.get(kind)]
  if not kinds:
    return []
  # Nothing is added where something can be changed: pairs that mostly insert
  # teach a model to say less.
  kinds = [kind for kind in kinds if kind != "insert"] or kinds
  kind = pick(rng, kinds, [settings.edits[k] for k in kinds])
  return list(rng.choice(made[kind]))
