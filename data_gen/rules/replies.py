"""Wrong replies to questions: yes for no, and another short answer."""

import random
import re
from collections.abc import Callable

from data_gen.rules.changes import pick
from data_gen.rules.corpus import Corpus, question_form
from data_gen.rules.english import article, number_word
from data_gen.rules.lexicon import match_case
from data_gen.rules.objects import replacements
from data_gen.rules.scene import Scene

_YES_NO = re.compile(r"\s*(yes|no)\b(?P<rest>.*)", re.I | re.S)
_BE = r"is|are|was|were|can|could|has|have|does|do|will|would|appears?|seems?"
_OPTION = re.compile(r"^\(?([A-H])[).:]?\s+(.+)$", re.M)
_NUMBER_WORDS = {number_word(n): n for n in range(21)}
_ABSENT = re.compile(r"\b(there (is|are) no|cannot see)\b", re.I)
_SAYS_MORE = re.compile(
  r"\s*(it|they|he|she|both|one|its|their|these|those|this|each|all|some|another"
  r"|the)\b",
  re.I,
)
# The clause at the end of a chain of reasoning.
_CONCLUDES = re.compile(
  r"\b(?:so|therefore|thus|hence|means that|indicates that|suggests that)\b"
  r",?\s+(?P<claim>[^.!?;]{1,200})[.!?]?\s*$",
  re.I,
)
# Longer than this, an answer is described by edits rather than exchanged.
SHORT = 6


def flip_yes_no(question: str, text: str) -> str | None:
  """The opposite of a yes/no reply with its first sentence turned round.

  "Yes, there is a cat." -> "No, there is no cat."; None where the reply does
  not start with yes or no, or its sentence cannot be turned safely.
  """
  match = _YES_NO.match(text)
  if not match:
    return None
  yes = match.group(1).lower() == "yes"
  word = match_case("no" if yes else "yes", match.group(1))
  first, rest = _first_sentence(match.group("rest"))
  if not re.search(r"\w", first):  # "Yes." or a bare "yes"
    return word + first + rest
  turned = (_deny if yes else _affirm)(first)
  return word + turned + _still_said(rest, turned) if turned else None


def _still_said(rest: str, first: str) -> str:
  """What follows; not what it said of things that `first` says are absent."""
  absent = _ABSENT.search(first)
  return "" if absent and _SAYS_MORE.match(rest) else rest


def wrong_conclusion(reasoning: str, yes: bool) -> tuple[int, int, str] | None:
  """The clause that leads to a yes/no answer, turned round.

  Args:
    reasoning: all before the final answer.
    yes: the correct answer.

  Returns:
    (start, end, new clause); None where none can be turned safely.
  """
  match = _CONCLUDES.search(reasoning)
  if not match:
    return None
  turned = (_deny if yes else _affirm)(match.group("claim"))
  return (*match.span("claim"), turned) if turned else None


def _first_sentence(text: str) -> tuple[str, str]:
  end = re.search(r"[.!](?=\s|$)", text)
  return (text[: end.end()], text[end.end() :]) if end else (text, "")


def _deny(sentence: str) -> str | None:
  """Negates ", there is a cat." or ", the cat is asleep."."""
  there = re.search(
    r"\b(there (?:is|are)) (an?|some|two|three|four|five|several|many"
    r"|a couple of|a few|multiple|one) ",
    sentence,
    re.I,
  )
  if there:
    rest = _EXAMPLES.sub("", sentence[there.end() :])
    return f"{sentence[: there.end(1)]} no {rest}"
  verb = re.search(rf"\b({_BE})\b(?! (?:not|no)\b)", sentence, re.I)
  if not verb or re.search(r"\bthere\b", sentence, re.I):
    return None
  word, rest = verb.group(1).lower(), sentence[verb.end() :]
  if word in ("do", "does") or _SEES_SEVERAL.match(word + rest):
    return None
  if word in _WITH_DO:
    if re.match(r" (been|to|\w+(ed|en))\b", rest) and word.startswith("ha"):
      return None  # "has been", "have to"
    rest = re.sub(r"^ (some|several|many) ", " any ", rest)
    return f"{sentence[: verb.start()]}{_WITH_DO[word]}{rest}"
  if word == "can":
    return f"{sentence[: verb.end()]}not{rest}"
  return f"{sentence[: verb.end()]} not{rest}"


# What there is none of has no examples.
_EXAMPLES = re.compile(r",? (including|such as|like|namely)\b[^.!]*")
_WITH_DO = {
  "has": "does not have",
  "have": "do not have",
  "appears": "does not appear",
  "appear": "do not appear",
  "seems": "does not seem",
  "seem": "do not seem",
}
# "I can see two dogs and a cat": its "not" would deny the number.
_SEES_SEVERAL = re.compile(
  r"(can|could) see (two|three|four|five|several|many|some|a few)\b"
)


def _affirm(sentence: str) -> str | None:
  """Takes the negation out of ", there is no cat." or ", it is not."."""
  there = re.search(
    r"\b(there (is|are)) (?:no|not an?|not any) (\w+)", sentence, re.I
  )
  if there:
    word = there.group(3)
    lead = article(word) if there.group(2).lower() == "is" else "some"
    return f"{sentence[: there.end(1)]} {lead} {sentence[there.start(3) :]}"
  plain, count = re.subn(
    rf"\b({_BE})(?: not|n't)\b", r"\1", sentence, count=1, flags=re.I
  )
  if not count or re.search(r"\b(any|no|only|but|instead)\b", plain):
    return None
  return re.sub(r"\b(does|do) (\w+)", _without_do, plain, count=1)


def _without_do(match: re.Match) -> str:
  """ "does have" -> "has"."""
  verb = match.group(2)
  if match.group(1) == "do":
    return verb
  if verb == "have":
    return "has"
  return verb + ("es" if re.search(r"(s|x|z|ch|sh|o)$", verb) else "s")


def _from_question(question: str, yes: bool) -> str | None:
  """A statement that answers "Is there a cat in the image?"."""
  asked = re.search(
    r"\b(?:is|are) there (an?|any|some)\s+([^?]+)\?", question, re.I
  )
  seen = re.search(
    r"\b(?:can|do) you see (an?|any|some)\s+([^?]+)\?", question, re.I
  )
  if seen and not asked:
    lead, rest = seen.group(1).lower(), seen.group(2).strip()
    several = lead in ("any", "some")
    if yes:
      return f"I can see {'some' if several else lead} {rest}"
    return f"I cannot see {'any' if several else lead} {rest}"
  if not asked:
    return None
  verb = "are" if asked.group(1).lower() in ("any", "some") else "is"
  lead = ("some" if verb == "are" else asked.group(1).lower()) if yes else "no"
  return f"there {verb} {lead} {asked.group(2).strip()}"


def wrong_yes_no(question: str, text: str) -> str | None:
  """The opposite reply, built from the question where the text resists."""
  turned = flip_yes_no(question, text)
  match = _YES_NO.match(text)
  if turned or not match:
    return turned
  yes = match.group(1).lower() == "no"
  statement = _from_question(question, yes)
  if not statement:
    return None
  word = match_case("yes" if yes else "no", match.group(1))
  _, rest = _first_sentence(match.group("rest"))
  return f"{word}, {statement}.{_still_said(rest, statement)}"


def wrong_short(
  corpus: Corpus, scene: Scene, text: str, rng: random.Random
) -> str | None:
  """Another answer of the same kind: option, number, object, or one that the
  corpus gives to questions of this form."""
  bare = text.strip().rstrip(".")
  for attempt in (_other_option, _other_number):
    new = attempt(scene.question, bare, rng)
    if new:
      return _in_place(text, bare, new)
  if " color" in scene.question:  # an "orange" is no fruit then
    return _other_reply(corpus, scene.question, text, rng)
  return _other_object(corpus, scene, text, rng) or _other_reply(
    corpus, scene.question, text, rng
  )


def _in_place(text: str, old: str, new: str) -> str:
  return text.replace(old, match_case(new, old), 1)


def _other_option(question: str, bare: str, rng: random.Random) -> str | None:
  options = dict(_OPTION.findall(question))
  letter = re.match(r"\(?([A-H])\b[).:]?", bare)
  if len(options) < 2 or not letter or letter.group(1) not in options:
    return None
  new = rng.choice([key for key in options if key != letter.group(1)])
  answer = bare.replace(letter.group(1), new, 1)
  return answer.replace(options[letter.group(1)], options[new])


def _other_number(question: str, bare: str, rng: random.Random) -> str | None:
  word = bare.lower()
  number = (
    int(word) if re.fullmatch(r"\d{1,4}", word) else _NUMBER_WORDS.get(word)
  )
  if number is None:
    return None
  new = rng.choice([n for n in (number + 1, number + 2, number - 1) if n >= 0])
  return str(new) if word.isdecimal() else number_word(new)


def _other_object(
  corpus: Corpus, scene: Scene, text: str, rng: random.Random
) -> str | None:
  mentions = corpus.lexicon.find(text)
  if len(mentions) != 1 or len(text.split()) > 3:
    return None
  local = Scene(
    text,
    scene.image,
    scene.question,
    tuple(mentions),
    scene.present,
    scene.known,
  )
  found = replacements(corpus, local, rng, "group")
  if not found:
    return None
  change = found[0][0]
  new = f"{text[: change.start]}{change.new}{text[change.end :]}"
  return _agree(new)


def _agree(text: str) -> str:
  fix: Callable[[re.Match], str] = lambda m: (
    f"{match_case(article(m.group(2)), m.group(1))} {m.group(2)}"
  )
  return re.sub(r"\b(an?|An?) (\w+)", fix, text, count=1)


def _other_reply(
  corpus: Corpus, question: str, text: str, rng: random.Random
) -> str | None:
  known = corpus.replies.get(question_form(question), {})
  same = text.strip().rstrip(".").lower()
  options = sorted(
    reply
    for reply in known
    if reply.rstrip(".").lower() != same and not _YES_NO.match(reply)
  )
  if not options or len(text.split()) > 3:
    return None
  return str(pick(rng, options, [known[o] for o in options]))
