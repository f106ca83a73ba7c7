"""Whether an edit leaves an answer that agrees with itself and its question."""

import re
from collections.abc import Sequence

from data_gen.rules import frames
from data_gen.rules.changes import Change, Proposal, swap
from data_gen.rules.lexicon import WORD, Mention
from data_gen.rules.scene import Scene

# Sentences that argue from what is seen: what they say follows from it.
ARGUES = re.compile(
  r"\b(may|might|could|would|should|likely|suggest\w*|infer\w*|reasons?"
  r"|because|since|indicat\w+|measures|therefore|thus|so that|provid\w+|helps?"
  r"|serves?|purposes?|potential\w*|possib\w+|allow\w*|ensur\w+|convey\w*"
  r"|contribut\w+|impl(?:y|ies|ying)|mak(?:es|ing) it|in order to)\b",
  re.I,
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


def sentence_at(text: str, place: int) -> tuple[int, str]:
  """(start, sentence) of the sentence that holds a place of a text."""
  for match in _SENTENCE.finditer(text):
    if match.start() <= place < match.end():
      return match.start(), match.group()
  return 0, text


def argued(text: str, place: int) -> bool:
  """Whether a place is in a sentence that argues."""
  return bool(ARGUES.search(sentence_at(text, place)[1]))


def said_of(scene: Scene, chain: Sequence[Mention]) -> set[str] | None:
  """Stems of all that an answer says of a thing, which another one in its place
  must fit: what stands around each mention, whole sentences where they argue.

  None where a word elsewhere, in the answer or its question, gives the old
  thing away.
  """
  old, text = chain[0].noun, scene.text
  elsewhere = set(
    frames.content(text, scene.mentions, 0)
    + frames.content(scene.question, (), 0)
  )
  if elsewhere & (frames.traces(old.name) | frames.traces(old.category)):
    return None
  said: set[str] = set()
  for mention in chain:
    start, sentence = sentence_at(text, mention.start)
    if ARGUES.search(sentence):
      said.update(frames.content(sentence, scene.mentions, start))
    else:
      said.update(frames.frame(text, mention, scene.mentions))
  return said


def everywhere(scene: Scene, change: Change) -> Proposal | None:
  """A change of an attribute wherever the answer says the same of the same
  thing; None where the old word stays beside the new one, in the answer or in
  the question."""
  text = scene.text
  old = text[change.start : change.end]
  pattern = re.compile(rf"\b{re.escape(old)}\b", re.I)
  if pattern.search(scene.question):
    return None
  places = list(pattern.finditer(text))
  nouns = {match.start(): _described(scene, match.end()) for match in places}
  mine = nouns.get(change.start, "")
  if len(places) > 1 and "" in nouns.values() and len(set(nouns.values())) > 1:
    return None  # of what it is said is open
  return tuple(
    swap(*match.span(), change.new, change.kind, text)
    for match in places
    if nouns[match.start()] == mine
  )


def _described(scene: Scene, end: int) -> str:
  """The category right after an adjective, "" for none."""
  close = (m for m in scene.mentions if 0 < m.start - end <= 14)
  found = next(close, None)
  if found and re.search(r"[.,;:]", scene.text[end : found.start]):
    return ""
  return found.noun.category if found else ""


def concludes(text: str, changes: Sequence[Change]) -> bool:
  """Whether changes reach the last sentence of an answer, its conclusion."""
  sentences = [m for m in _SENTENCE.finditer(text) if WORD.search(m.group())]
  return bool(sentences) and any(
    c.start >= sentences[-1].start() for c in changes
  )
