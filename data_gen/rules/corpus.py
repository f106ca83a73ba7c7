"""What the corpus knows: which objects occur together, in which colours, and
how questions of a kind are answered."""

import collections
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from data_gen.rules.frames import Frames
from data_gen.rules.lexicon import (
  WORD,
  Lexicon,
  Mention,
  Noun,
  related,
  vocabulary,
)

# Characters of an answer. A longer text is not an answer; the rules would take
# minutes over it.
LONGEST = 10_000
# Weight of the prior in the co-occurrence estimate, in pictures.
_PRIOR = 1.0
# "Answer: ..." at the end of a chain of reasoning.
FINAL = re.compile(
  r"(?P<mark>\banswer\s*:\s*)(?P<answer>[^\n]+?)(?P<end>\.?\s*)$", re.I
)
# With its end if it has one; looking for that again from every letter of a
# long text without any would take minutes.
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
_STAND_ALONE = re.compile(
  r"^(There (is|are)|A|An|Two|Three|Several|Then there (is|are)"
  r"|In the (back|fore)ground|(At|On|In) the [a-z ]+ there (is|are)) "
)
_LEANS_ON_OTHERS = re.compile(
  r"\b(it|its|they|their|he|his|she|her|another|other|these|those|this|that"
  r"|them|both|same)\b",
  re.I,
)


@dataclass(frozen=True)
class Answer:
  """One answer of the corpus with its question and its image's name."""

  image: str
  question: str
  text: str


@dataclass(frozen=True)
class Said:
  """A sentence of the corpus that makes sense on its own.

  Attributes:
    question: what it answers.
    text: the sentence.
    place: where in its answer it ends; 1 is the end of the answer.
  """

  question: str
  text: str
  place: float


@dataclass
class Corpus:
  """Statistics of all answers; the same input gives the same object."""

  lexicon: Lexicon
  # Image name -> categories in it: annotated ones, or those of its answers.
  objects: dict[str, set[str]] = field(default_factory=dict)
  counts: collections.Counter = field(default_factory=collections.Counter)
  pairs: collections.Counter = field(default_factory=collections.Counter)
  colors: collections.Counter = field(default_factory=collections.Counter)
  # Name of a noun, synonyms apart -> its mentions.
  names: collections.Counter = field(default_factory=collections.Counter)
  # Form of a question -> its short answers.
  replies: dict[str, collections.Counter] = field(
    default_factory=lambda: collections.defaultdict(collections.Counter)
  )
  # Category -> the sentences that mention it and nothing else we know.
  sentences: dict[str, list[Said]] = field(
    default_factory=lambda: collections.defaultdict(list)
  )
  # What is said around each noun.
  frames: Frames = field(default_factory=Frames, repr=False)
  _candidates: dict = field(default_factory=dict, repr=False)
  # Every word of the corpus, lower case.
  words: set[str] = field(default_factory=set)

  def fingerprint(self) -> str:
    """A hash of the statistics: other statistics, other pairs."""
    parts = [sorted(self.pairs.items()), sorted(self.colors.items())]
    text = json.dumps([*parts, sorted(self.words), len(self.objects)])
    return hashlib.blake2b(text.encode(), digest_size=9).hexdigest()

  def likelihood(self, category: str, present: Iterable[str]) -> float:
    """How likely a category is beside the present ones: the mean over them of
    P(category | other), smoothed towards the category's own frequency."""
    images = max(len(self.objects), 1)
    base = (self.counts[category] + 0.05) / (images + 1)
    scores = [
      (
        self.pairs[other, category]
        + _PRIOR * base * (1.0 if self.near(category, other) else 0.05)
      )
      / (self.counts[other] + _PRIOR)
      for other in present
      if self.counts[other]
    ]
    return sum(scores) / len(scores) if scores else base

  def near(self, one: str, other: str) -> bool:
    """Whether two things are found in one kind of place; unknown ones are."""
    nouns = self.lexicon.by_category
    if one not in nouns or other not in nouns:
      return True
    return meet(nouns[one].group, nouns[other].group)

  def known(self, image: str, present: set[str]) -> frozenset[str]:
    """Categories that would be no error: annotated in the image, or in its
    answers, or kinds of those."""
    known = self.objects.get(image, set()) | present
    return frozenset(known.union(*map(related, known)))

  def spoken(self, noun: Noun) -> Noun:
    """The everyday name of a noun: COCO's "sports ball" is called so only if
    the corpus has it.
    """
    name = vocabulary()["spoken"].get(noun.name)
    if name is None or self.names[name] <= self.names[noun.name]:
      return noun
    return replace(noun, name=name)

  def candidates(self, group: str, within: str) -> list[Noun]:
    """Nouns that may stand in the place of one of `group`.

    Args:
      group: of the noun to be replaced.
      within: "group": nouns of the same group; "any": every noun that the
        corpus has, rooms and people apart.
    """
    if (group, within) not in self._candidates:
      apart = vocabulary()["places_apart"].split()
      self._candidates[group, within] = [
        noun
        for noun in self.lexicon.by_category.values()
        if (
          noun.group == group and not noun.mass
          if within == "group" or group in apart
          else self.counts[noun.category] and noun.group not in apart
        )
      ]
    return self._candidates[group, within]

  def insertable(self) -> list[Noun]:
    """Nouns that can turn up beside others."""
    if "" not in self._candidates:
      never = vocabulary()["never_inserted"].split()
      nouns = self.lexicon.by_category.values()
      self._candidates[""] = [n for n in nouns if n.group not in never]
    return self._candidates[""]


def words(text: str) -> set[str]:
  """The words of a text, lower case."""
  return {match.group().lower() for match in WORD.finditer(text)}


@functools.cache
def meet(group: str, other: str) -> bool:
  """Whether two groups of nouns are found in one place; unknown ones are."""
  places = [set(p.split()) for p in vocabulary()["places"].values()]
  known = set().union(*places)
  if group not in known or other not in known:
    return True
  return any({group, other} <= place for place in places)


def question_form(question: str) -> str:
  """The kind of a question: its first words ("what color is")."""
  words = re.findall(r"[a-z]+", question.replace("<image>", "").lower())
  return " ".join(words[:3] if words[:1] != ["how"] else words[:2])


def learn(
  answers: Iterable[Answer],
  lexicon: Lexicon,
  annotated: Mapping[str, set[str]] | None = None,
) -> Corpus:
  """Reads all answers once.

  Args:
    answers: those of every sample that will be edited.
    lexicon: the nouns that count.
    annotated: image name -> categories really in it; images without an entry
      count with the objects their answers mention.
  """
  corpus = Corpus(lexicon)
  for name, categories in (annotated or {}).items():
    corpus.objects[name] = {lexicon.category(c) for c in categories}
  colors = set(vocabulary()["colors"].split())
  for answer in answers:
    if len(answer.text) > LONGEST:
      continue
    mentions = lexicon.find(answer.text)
    known = corpus.objects.setdefault(answer.image, set())
    if not re.match(r"\s*no\b", answer.text, re.I):  # "No, there is no cat"
      # To "What color is it?" an "orange" is no fruit.
      color = " color" in answer.question
      known |= {
        m.noun.category
        for m in mentions
        if not (color and m.noun.name in colors)
      }
    corpus.names.update(m.noun.name for m in mentions)
    corpus.frames.learn(answer.text, mentions)
    _learn_colors(corpus, answer.text, mentions)
    _learn_sentences(corpus, answer)
    _learn_reply(corpus, answer)
    corpus.words |= words(answer.text)
  for known in corpus.objects.values():
    corpus.counts.update(known)
    corpus.pairs.update((a, b) for a in known for b in known if a != b)
  return corpus


def _learn_colors(corpus: Corpus, text: str, mentions: list[Mention]) -> None:
  colors = set(vocabulary()["colors"].split())
  for mention in mentions:
    if mention.before in colors:
      corpus.colors[mention.noun.category, mention.before] += 1


def _learn_reply(corpus: Corpus, answer: Answer) -> None:
  final = FINAL.search(answer.text)
  reply = final.group("answer") if final else answer.text.strip()
  if len(reply.split()) <= 3:
    corpus.replies[question_form(answer.question)][reply] += 1


def _points(corpus: Corpus, sentence: str) -> bool:
  """Whether the text mentions "the cart" or "the way", which are not in the
  vocabulary.
  """
  places = vocabulary()["definite"].split()
  return any(
    noun not in places and not corpus.lexicon.knows(noun)
    for noun in re.findall(r"\bthe ([\w-]+)", sentence.lower())
  )


def _learn_sentences(corpus: Corpus, answer: Answer) -> None:
  for match in _SENTENCE.finditer(answer.text):
    sentence = " ".join(match.group().split())
    if sentence[-1:] not in tuple(".!?"):
      continue
    if not _STAND_ALONE.match(sentence) or len(sentence.split()) > 14:
      continue
    found = corpus.lexicon.find(sentence)
    categories = {m.noun.category for m in found if not m.noun.mass}
    one = len(categories) == 1 and not _LEANS_ON_OTHERS.search(sentence)
    # A definite noun points at something the other answer does not have.
    definite = any(m.before == "the" and not m.noun.mass for m in found)
    if one and not definite and not _points(corpus, sentence):
      place = match.end() / len(answer.text.rstrip())
      said = Said(answer.question, sentence, place)
      corpus.sentences[categories.pop()].append(said)
