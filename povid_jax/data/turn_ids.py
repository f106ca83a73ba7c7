"""What is said in a conversation, written as ids one part after another."""

import copy
import re
from collections.abc import Sequence

from povid_jax.data.templates import Template
from povid_jax.data.tokenizer import Tokenizer
from povid_jax.errors import UserError
from povid_jax.models.config import IMAGE_TOKEN

MARKER = "<image>"


_PLACE = re.compile(r"\{text\}|\{image\}")
SPECIAL = re.compile(r"(<s>|</s>|<\|[^<|>]+\|>)")


class Writer:
  """Collects ids and mask; text between special tokens is encoded as one."""

  def __init__(
    self, tokenizer: Tokenizer, template: Template, counts: Sequence[int]
  ) -> None:
    self._tokenizer = tokenizer
    self._template = template
    self._counts = counts  # tokens of the images that are still to come
    bos = tokenizer.bos_id
    self.ids: list[int] = [] if bos is None else [bos]
    self.mask = [False] * len(self.ids)
    self._text = ""  # not encoded yet: an answer may follow on it
    self._continues = False  # what comes next stands after a special token

  def _encode(self, text: str) -> list[int]:
    return self._tokenizer.encode(text, continues=self._continues)

  def _put(self, ids: Sequence[int], mask: bool = False) -> None:
    self.ids.extend(ids)
    self.mask.extend([mask] * len(ids))

  def flush(self) -> None:
    if self._text:
      self._put(self._encode(self._text))
      self._text, self._continues = "", False

  def _put_special(self, token: int, mask: bool = False) -> None:
    self.flush()
    self._put([token], mask)
    self._continues = True

  def _special(self, token: str) -> int | None:
    named = {"</s>": self._tokenizer.eos_id, "<s>": self._tokenizer.bos_id}
    return named.get(token, self._tokenizer.token_id(token))

  def _image(self) -> None:
    self.flush()
    self._mark(self._template.image_start)
    self._put([IMAGE_TOKEN] * self._counts[0])
    self._counts = self._counts[1:]
    self._continues = False  # LLaVA tokenises what follows by itself
    self._mark(self._template.image_end)

  def _mark(self, token: str) -> None:
    """A token beside an image, where the template has one."""
    if not token:
      return
    known = self._special(token)
    if known is None:
      raise UserError(
        f"{self._tokenizer.folder}: the tokenizer has no {token}, which the "
        "template puts beside an image; this tokenizer belongs to another "
        "model"
      )
    self._put_special(known)

  def _said(self, said: str) -> list[str]:
    """What was said as the texts before, between and behind its images."""
    texts = said.split(MARKER)
    count = len(texts) - 1
    at_front = count == 1 and not texts[0]
    if count and not (self._template.in_place and (count > 1 or at_front)):
      rest = "".join(texts).strip()
      texts = ["", *["\n"] * (count - 1), f"\n{rest}" if rest else ""]
    if self._template.image_end:
      texts[1:] = [text.removeprefix("\n") for text in texts[1:]]
    if self._template.trim:
      texts[0] = texts[0].lstrip()
      texts[-1] = texts[-1].rstrip()
    return texts

  def _with_images(self, texts: Sequence[str]) -> None:
    self._text += texts[0]
    for text in texts[1:]:
      self._image()
      self._text += text

  def question(self, said: str, first: bool) -> None:
    text = self._template.first if first else self._template.later
    texts = self._said(said)
    if "{image}" in text:  # the images alone
      texts = [
        "\n" if 0 < i < len(texts) - 1 else "" for i in range(len(texts))
      ]
    for piece in SPECIAL.split(text):
      special = self._special(piece) if SPECIAL.fullmatch(piece) else None
      if special is not None:
        self._put_special(special)
        continue
      before, *after = _PLACE.split(piece)
      self._text += before
      if after:
        self._with_images(texts)
        self._text += after[0]

  def _after_question(self, text: str) -> list[int]:
    """Ids of an answer's text behind the question that is not encoded yet."""
    head, whole = self._encode(self._text), self._encode(self._text + text)
    if whole[: len(head)] == head:
      return whole[len(head) :]
    # A tokenizer that joins text across the border would leave the prefix
    # of generation behind; such an answer is encoded apart.
    return self._encode(text)

  def _context(self, context: str) -> list[int]:
    before = self._template.answer.partition("{text}")[0]
    context = context.lstrip() if self._template.trim else context
    return self._after_question(before + context)

  def start_answer(self, context: str) -> None:
    """An answer that is not finished: nothing of it is scored."""
    self._put([*self._encode(self._text), *self._context(context)])
    self._text, self._continues = "", False

  def answer(self, said: str, context: str = "", ends: bool = True) -> None:
    """An answer, scored from where it differs from its context."""
    if self._template.trim:
      context, said = context.lstrip(), said.rstrip()
      said = said if context else said.lstrip()
    before, _, after = self._template.answer.partition("{text}")
    text = before + join(context, said) + (after if ends else "")
    answer, fork = self._after_question(text), 0
    if context:
      fork = common_prefix([answer, self._context(context)])
    self._put(self._encode(self._text))
    self._put(answer[:fork])
    self._put(answer[fork:], True)
    self._text, self._continues = "", False
    if (end := self._template.end) and ends:
      special = self._special(end)
      self._put_special(
        self._tokenizer.eos_id if special is None else special, True
      )

  def prompt(self, turns: Sequence[str]) -> None:
    for i, said in enumerate(turns):
      if i % 2:
        self.answer(said)
      else:
        self.question(said, first=i == 0)

  def response(self, turns: Sequence[str], context: str, ends: bool) -> None:
    for i, said in enumerate(turns):
      if i % 2:
        self.question(said, first=False)
      else:
        last = i == len(turns) - 1
        self.answer(said, "" if i else context, ends or not last)

  def fork(self) -> "Writer":
    other = copy.copy(self)
    other.ids, other.mask = list(self.ids), list(self.mask)
    return other


def join(context: str, said: str) -> str:
  """The answer so far and what follows, a blank between them."""
  touching = not context or not said
  if touching or context[-1].isspace() or said[0].isspace():
    return context + said
  return f"{context} {said}"


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
  """How many ids all sequences start with."""
  count = 0
  for ids in zip(*sequences, strict=False):
    if len(set(ids)) > 1:
      break
    count += 1
  return count
