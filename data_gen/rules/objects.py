"""Edits that put an absent but likely object into an answer."""

import collections
import random
import re

from data_gen.rules.changes import Change, Proposal, pick, swap
from data_gen.rules.coherence import ARGUES, said_of
from data_gen.rules.corpus import Corpus, Said
from data_gen.rules.english import article, plural
from data_gen.rules.lexicon import Mention, Noun, match_case, vocabulary
from data_gen.rules.scene import Scene

_INDEFINITE = frozenset(
  "a an two three four five several some many few multiple".split()
)
_DEFINITE = frozenset(
  "the this that these those its his her their both another other".split()
)
_PORTABLE = frozenset(
  "bag handheld small pocket grooming cutlery tableware fruit dish sweet"
  " vegetable board thrown sports reading figure toy".split()
)
_WORN = frozenset(
  "clothing headwear neckwear outfit footwear wear_plural jewelry".split()
)
# "talking on his phone" needs a phone, "walk-in" a shower.
_FIXED = re.compile(
  r"\b((talking|speaking|chatting|riding) (on|in) \w+|walk-in|high|home|license"
  r"|birthday|wedding|tabby|calico|vase (of|with)|bouquet of) $",
  re.I,
)
# Nobody walks a cat.
_LED = re.compile(
  r"\bwalk(?:s|ed|ing)? (?:(?:his|her|their|a|an|the|its|two|\w+'s)\s+)"
  r"(?:[\w-]+\s+){0,2}$",
  re.I,
)
# "riding a brown horse": nobody rides a goat.
_RIDDEN = re.compile(r"\b(rid(e|es|ing)|rode) ([\w-]+ ){0,3}$", re.I)
# Only a clock tells the time, only a traffic light shows green.
_TELLING = ("clock", "traffic light")
_TELLS = re.compile(
  r"[^.]{0,40}\b(shows|reads|indicates|displays|says|strikes)\b"
)
# Sentences about what is seen; after one of them another thing may be seen.
_DESCRIBES = re.compile(
  r"\b(image|picture|photo|scene|there (is|are)|visible|seen|located|situated"
  r"|positioned|placed|features|in the (back|fore)ground|on the (left|right)"
  r")\b",
  re.I,
)
_LIST_END = re.compile(r",? and (?=(?:an?|the|two|three|several) )")
_LISTED = re.compile(
  r", (?:an?|the|two|three|several)(?: (?!is|are|was|were|has|have)[\w-]+)"
  r"{1,3}$"
)
# After the last thing of a list; a verb there would make it a clause.
_AFTER_LIST = re.compile(
  r"\s*([.,;]|$|(in|on|at|near|next|with|beside|behind|around|nearby)\b)"
)
# What is asked for is an argument, not what else is to be seen.
_ASKS_WHY = re.compile(
  r"\b(why|how|purposes?|reasons?|challenges?|might|could|may|infer\w*|should"
  r"|would|factors?|benefits?|likely|potential)\b",
  re.I,
)
_SENTENCE_END = re.compile(r"[.](?=\s|$)")


def replacements(
  corpus: Corpus, scene: Scene, rng: random.Random, within: str
) -> list[Proposal]:
  """One proposal per object: all its mentions become another object.

  Args:
    within: "group": the new object comes from the old one's group of the
      vocabulary, so that verbs still fit; "any": from all categories of the
      corpus, by co-occurrence alone.
  """
  asked = corpus.lexicon.categories(scene.question)
  found = []
  for chain in _chains(scene):
    noun = chain[0].noun
    if noun.group in ("person", "mass") or noun.category in asked:
      continue
    if noun.group == "room" and _furnished(scene):
      continue
    if not all(_editable(scene.text, mention) for mention in chain):
      continue
    new = _candidate(corpus, scene, chain, rng, within)
    if new:
      found.append(_rename(chain, corpus.spoken(new), scene.text))
  return found


def _chains(scene: Scene) -> list[list[Mention]]:
  """Mentions grouped by the thing they speak of.

  A noun is one thing all through the answer, and what is said of one of several
  is said of all: only singular indefinite ones ("a cup ... a cup") are two.
  """
  groups = collections.defaultdict(list)
  for mention in scene.mentions:
    groups[mention.noun.category].append(mention)
  chains, young = [], set(vocabulary()["young"].split())
  for group in groups.values():
    names = {mention.noun.name for mention in group}
    if len(names) > 1 and names & young:
      continue  # "the sheep and its lamb": not one thing
    loose = all(
      _introduces(scene.text, mention) and not mention.plural
      for mention in group
    )
    chains += [[mention] for mention in group] if loose else [group]
  return chains


def _furnished(scene: Scene) -> bool:
  """Whether what stands in a room tells which room it is."""
  groups = {mention.noun.group for mention in scene.mentions}
  return bool(groups - {"person", "room"})


def _editable(text: str, mention: Mention) -> bool:
  before, after = text[: mention.start], text[mention.end :]
  if not mention.head or _FIXED.search(before):
    return False
  if mention.noun.name in _TELLING and _TELLS.match(after):
    return False
  if mention.noun.group == "pet" and _LED.search(before[-60:]):
    return False
  animal = mention.noun.group in ("livestock", "wild")
  return not (animal and _RIDDEN.search(before[-60:]))


def _introduces(text: str, mention: Mention) -> bool:
  """Whether the noun phrase starts with an indefinite determiner."""
  words = re.findall(r"[\w-]+|[.,;:]", text[: mention.start].lower())[-4:]
  for word in reversed(words):
    if word in _INDEFINITE or word.isdecimal():
      return True
    if word in _DEFINITE:
      return False
    if word in ".,;:":
      break
  return mention.plural


def _candidate(
  corpus: Corpus,
  scene: Scene,
  chain: list[Mention],
  rng: random.Random,
  within: str,
) -> Noun | None:
  old = chain[0].noun
  others = sorted(scene.present - {old.category})
  options = [
    noun
    for noun in corpus.candidates(
      old.group, within if corpus.counts[old.category] else "group"
    )
    if noun.category not in scene.known
    and (not noun.plural_only or all(_plain_plural(m) for m in chain))
  ]
  said = said_of(scene, chain)
  fits = lambda new: all(corpus.frames.fits(w, new, old) for w in said or ())
  options = [n for n in options if said is not None and fits(n)]
  if not options:
    return None
  usual = set(vocabulary()["common"].split())
  weights = [
    corpus.likelihood(n.category, others) * (3.0 if n.name in usual else 1.0)
    for n in options
  ]
  return pick(rng, options, weights)


def _plain_plural(mention: Mention) -> bool:
  return mention.plural and not mention.counted


def _form(new: Noun, many: bool) -> str:
  return plural(new.name) if many and not new.plural_only else new.name


def _rename(chain: list[Mention], new: Noun, text: str) -> Proposal:
  return tuple(
    swap(m.start, m.end, _form(new, m.plural), "object", text) for m in chain
  )


def insertions(
  corpus: Corpus, scene: Scene, rng: random.Random, above: float = 0.0
) -> list[Proposal]:
  """Places where one absent object can be added: into a list, or as a
  sentence of its own, in the corpus's words where it has some.

  Args:
    above: least likelihood of the object beside those that are there.
  """
  nouns = [
    n
    for n in corpus.insertable()
    if n.category not in scene.known
    # A shirt is not seen "in the background", unless the corpus says how.
    and (n.group not in _WORN or n.category in corpus.sentences)
  ]
  present = sorted(scene.present)
  # Only what the corpus has seen beside one of the things that are there.
  options = [
    n
    for n in nouns
    if corpus.likelihood(n.category, present) >= above
    and any(corpus.pairs[other, n.category] for other in present)
    and all(corpus.near(n.category, other) for other in present)
  ]
  if not options:
    return []
  # Cubed: what comes to mind first is what is most usual there, not a draw
  # from everything that was ever seen beside it.
  weights = [corpus.likelihood(n.category, present) ** 3 for n in options]
  new = corpus.spoken(pick(rng, options, weights))
  sentences = _as_sentence(corpus, scene.question, scene.text, new, rng)
  return [*_into_lists(scene, new), *sentences]


def _into_lists(scene: Scene, new: Noun) -> list[Proposal]:
  phrase = new.name if new.plural_only else f"{article(new.name)} {new.name}"
  return [
    (Change(at, at, f", {phrase}", "object"),)
    for match in _LIST_END.finditer(scene.text)
    # "..., and the man ..." opens a clause; in a list a comma came before.
    if _LISTED.search(scene.text[max(0, (at := match.start()) - 40) : at])
    and _ends_list(scene, match.end())
    and _listed_group(scene, match.end()) == new.group
  ]


def _listed_group(scene: Scene, start: int) -> str:
  """The group of the last thing of a list; "" for one that we do not know."""
  last = next((m for m in scene.mentions if m.start >= start), None)
  return last.noun.group if last else ""


def _ends_list(scene: Scene, start: int) -> bool:
  """Whether the noun phrase after the "and" is all that comes."""
  last = next((m for m in scene.mentions if m.start >= start), None)
  if last is None or last.start - start > 30:
    # No noun of ours: a short phrase up to the full stop.
    return bool(re.match(r"[\w-]+(?: [\w-]+){1,2}\.", scene.text[start:]))
  return last.head and bool(_AFTER_LIST.match(scene.text[last.end :]))


def _as_sentence(
  corpus: Corpus, question: str, text: str, new: Noun, rng: random.Random
) -> list[Proposal]:
  ends = [m.end() for m in _SENTENCE_END.finditer(text)]
  # A lone sentence answers a question; a list of points is no description.
  if len(ends) < 2 or "\n1." in text or _ASKS_WHY.search(question):
    return []
  starts = [0, *ends[:-1]]
  ends = [
    end
    for start, end in zip(starts, ends, strict=True)
    if _DESCRIBES.search(text[start:end]) and not ARGUES.search(text[start:end])
  ]
  own = corpus.sentences.get(new.category, [])
  # A prompt may ask for a style; its other answers have that style.
  own = [said for said in own if said.question == question] or own
  if not own and new.group in _PORTABLE:
    return []  # somebody carries it, it does not lie around in a street
  if not own or not ends:
    sentence = _template(new, rng)
    return [(Change(end, end, f" {sentence}", "object"),) for end in ends]
  said = _most_usual(own, rng)
  # Where the corpus has it: what comes last there is no first impression.
  end = min(ends, key=lambda end: abs(end / len(text) - said.place))
  return [(Change(end, end, f" {said.text}", "object"),)]


def _most_usual(own: list[Said], rng: random.Random) -> Said:
  """One of the sentences, by how often the corpus has it word for word.

  Squared: what is said of many pictures fits another one; what was said once
  (a place, a colour) was that picture's own.
  """
  times = collections.Counter(said.text for said in own)
  text = pick(rng, list(times), [n**2 for n in times.values()])
  return rng.choice([said for said in own if said.text == text])


def _template(new: Noun, rng: random.Random) -> str:
  if new.plural_only:
    return f"Some {new.name} can also be seen nearby."
  thing = f"{article(new.name)} {new.name}"
  return rng.choice(
    [
      f"There is also {thing} nearby.",
      f"There is {thing} in the background.",
      f"{match_case(thing, 'A')} can be seen off to the side.",
      f"{match_case(thing, 'A')} is visible in the background as well.",
    ]
  )
