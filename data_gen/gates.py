"""The checks that every rejected answer must pass, whatever wrote it."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_gen.rules.lexicon import Lexicon

_REFUSAL = re.compile(
  r"^\W*((i'?m|i am) (very |so |really )?(sorry|unable|afraid|not able)|sorry\b"
  r"|i (cannot|can'?t|can not|won'?t|will not|must decline)"
  r"|(unfortunately|regrettably|apologies)\b|as an? (ai|language model)\b"
  r"|i don'?t (feel|think i)"
  r"|it (is|would be|wouldn'?t be) (not )?(in)?appropriate)",
  re.I,
)
_MARKUP = re.compile(
  r"<image>|</?s>|<\|[^>]*\|>|</?[a-z][a-z0-9]*[^>]*>|```|\*\*|^#{1,6} "
  r"|\b(USER|ASSISTANT):|^\s*[{\[]\s*\"|\"\s*:\s*\"|\\n|&(amp|lt|gt|quot);"
  r"|\[/?INST\]|\[\[answer \d+\]\]|^\s*[-*•] ",
  re.M,
)
_PREFACE = re.compile(
  r"^\W*(sure|certainly|of course|absolutely)\s*[!.]"
  r"|^\W*(sure|certainly|of course|here'?s|here is|rewritten|output|incorrect"
  r"|rejected|modified|the (hallucinated|wrong|incorrect|modified))\b"
  r"[^.\n]{0,80}:"
  r"|\bhallucinat|\bnote:|\bi (have )?(changed|replaced|altered|swapped)\b"
  r"|\b(was|were|been|is|are) (changed|altered|swapped|replaced)"
  r" (to|from|with)\b",
  re.I,
)
_HALF = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_EMPTY_WORDS = frozenset(
  "a an the and is are was were of to it its this that there".split()
)
_COMMON = frozenset(
  """a an the and or is are was were of to in on at it its this that there with
  for as by be he she his her they their has have from which while not no yes
  also two one""".split()
)

# Small words of the neighbours that English does not have.
_FOREIGN = frozenset(
  """el los las un una del y que está en junto le les des une et dans avec der
  das und ist ein eine einen dem mit nicht il lo gli della che sono um uma não
  het een la de""".split()
)

# Every reason an item can be refused for, with what it means.
GATES = {
  "empty": "the text is empty",
  "refusal": "the model declined",
  "markup": (
    "the text has tags, Markdown, JSON, a preface or an incomplete character"
  ),
  "language": "the language differs from that of the correct answer",
  "identical": "only function words differ from the correct answer",
  "edit_missing": "a named edit does not occur in the text",
  "length": "the text is much shorter or longer than the correct answer",
  "similarity": "too few words of the correct answer are kept in their order",
  "object_present": "the invented object is in the picture",
  "schema": "the reply does not have the requested form",
  "no_edit": "nothing in the answer can be changed",
}


@dataclass(frozen=True)
class Limits:
  """Bounds of the gates.

  Attributes:
    min_length, max_length: words of the wrong answer over those of the right.
    min_similarity: share of words kept in order (difflib's ratio), 0..1.
    slack: words that may always be added.
    short: answers up to this many words may be exchanged as a whole; length
      and similarity say nothing about them.
  """

  min_length: float = 0.6
  max_length: float = 1.6
  min_similarity: float = 0.5
  slack: int = 9
  short: int = 8


@dataclass(frozen=True)
class Refused:
  """The reason why an answer is refused."""

  reason: str
  detail: str


def check(
  chosen: Sequence[str],
  rejected: Sequence[str],
  edits: Sequence[dict],
  limits: Limits,
  lexicon: Lexicon | None = None,
  truth: set[str] | None = None,
) -> Refused | None:
  """The first gate that an item does not pass, None if it passes all.

  Args:
    chosen: the correct answers of a conversation.
    rejected: as many wrong ones; some may be equal to the correct ones.
    edits: [{span, original, kind}] of all answers.
    limits: bounds.
    lexicon: finds objects in the answers.
    truth: categories annotated in the picture; None: not known.
  """
  if len(chosen) != len(rejected):
    return Refused("schema", f"{len(rejected)} answers, want {len(chosen)}")
  changed = [
    (old, new)
    for old, new in zip(chosen, rejected, strict=True)
    if old.strip() != new.strip()
  ]
  if not changed or all(_content(a) == _content(b) for a, b in changed):
    return Refused("identical", "no word of weight differs")
  for old, new in changed:
    refused = _check_text(old, new, limits)
    if refused:
      return refused
  return _check_edits(rejected, edits) or _check_objects(
    changed, lexicon, truth
  )


def check_texts(
  before: Sequence[str], after: Sequence[str], limits: Limits
) -> Refused | None:
  """The first gate for texts that new answers do not pass: empty, a refusal,
  mark-up, another language, length, likeness."""
  for old, new in zip(before, after, strict=True):
    refused = _check_text(old, new, limits) if old != new else None
    if refused:
      return refused
  return None


def _words(text: str) -> list[str]:
  return _WORD.findall(text.lower())


def _content(text: str) -> list[str]:
  return [word for word in _words(text) if word not in _EMPTY_WORDS]


def _check_text(old: str, new: str, limits: Limits) -> Refused | None:
  if not new.strip():
    return Refused("empty", "")
  if _REFUSAL.search(new) and not _REFUSAL.search(old):
    return Refused("refusal", new[:80])
  if _HALF.search(new):  # no UTF-8 file could hold it
    return Refused("markup", "half a surrogate pair")
  for pattern in (_MARKUP, _PREFACE):
    leak = pattern.search(new)
    if leak and not pattern.search(old):
      return Refused("markup", leak.group()[:40])
  if _other_language(old, new):
    return Refused("language", new[:80])
  return _check_shape(_words(old), _words(new), limits)


def _check_shape(
  old: list[str], new: list[str], limits: Limits
) -> Refused | None:
  ratio = len(new) / max(len(old), 1)
  if len(old) <= limits.short:
    # A word may become a clause, but not a long text.
    if len(new) > limits.short + 2 * len(old):
      return Refused("length", f"{len(new)} words for {len(old)}")
    return None
  # One added sentence is allowed, even in a very short answer.
  extra = len(new) - len(old) > limits.slack
  if {old[0], *new[:1]} == {"yes", "no"} and not extra:
    return None  # "No, I cannot see any.": a denial needs no details
  if ratio < limits.min_length or (ratio > limits.max_length and extra):
    return Refused("length", f"ratio {ratio:.2f}")
  # Beyond a page, comparing every "the" with every other takes minutes.
  long = max(len(old), len(new)) > 1000
  kept = difflib.SequenceMatcher(None, old, new, autojunk=long).ratio()
  if kept < limits.min_similarity:
    return Refused("similarity", f"{kept:.2f} of the words kept")
  return None


def _foreign(text: str) -> float:
  """Share of letters outside the Latin script."""
  letters = [char for char in text if char.isalpha()]
  return sum(ord(char) > 0x24F for char in letters) / max(len(letters), 1)


def _other_language(old: str, new: str) -> bool:
  if abs(_foreign(new) - _foreign(old)) > 0.3:
    return True
  before, after = _words(old), _words(new)
  if len(before) < 8 or len(after) < 8:
    found = _FOREIGN.intersection(after).difference(before)
    return len(found) > 1 and not _COMMON.intersection(after)
  share = sum(word in _COMMON for word in before) / len(before)
  kept = sum(word in _COMMON for word in after) / len(after)
  return share > 0.15 and kept < 0.3 * share


def _check_edits(
  rejected: Sequence[str], edits: Sequence[dict]
) -> Refused | None:
  if not edits:
    return Refused("edit_missing", "no edit is named")
  text = " ".join(" ".join(rejected).lower().split())
  for edit in edits:
    span = " ".join(str(edit.get("span", "")).lower().split()).strip(" .,;")
    removed = not span and str(edit.get("original", "")).strip()
    if span not in text or not (span or removed):
      return Refused("edit_missing", span[:80])
  return None


def _check_objects(
  changed: Sequence[tuple[str, str]],
  lexicon: Lexicon | None,
  truth: set[str] | None,
) -> Refused | None:
  """An object that only the wrong answer names must not be in the picture."""
  if lexicon is None or not truth:
    return None
  known = {lexicon.category(name) for name in truth}
  for old, new in changed:
    if re.match(r"\s*no\b", new, re.I):
      continue  # "No, there is no cat": naming it is not inventing it
    invented = lexicon.categories(new) - lexicon.categories(old)
    # A wrong reply may answer with something else that is in the picture:
    # such a reply is wrong for the question, not for the picture.
    if invented & known and len(_words(old)) > 3:
      return Refused("object_present", ", ".join(sorted(invented & known)))
  return None
